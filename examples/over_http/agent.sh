#!/bin/sh
# An agent in shell, with curl and jq: agent.sh http://127.0.0.1:8000 TOKEN TOPIC ID
# One task at a time, each within the lease of 60 s: it needs no beat beside the work.
set -eu
url=$1/api/v1/mesh token=$2 topic=$3 me=$4 claims=0

call() { # path, body: sent until the mesh answers, every call here may be repeated
  curl -sSf --retry 60 --retry-delay 1 --retry-connrefused --max-time 60 \
    -H "Authorization: Bearer $token" -H "Content-Type: application/json" \
    -d "$2" "$url/$1"
}

end() { # delivery, verb, what is said of it
  call "deliveries/$2" "$(printf '%s' "$1" | jq -c \
    --argjson said "$3" '{deliveries: [{topic, id, fence} + $said]}')" >/dev/null
}

agent="{\"agent_id\": \"$me\", \"agent_type\": \"words\", \"lease_s\": 60}"
drain=false
while [ "$drain" = false ]; do
  call agents "$agent" >/dev/null # keeps the registration, too
  claims=$((claims + 1))
  answer=$(call "topics/$topic/claim" \
    "{\"agent_id\": \"$me\", \"wait_s\": 20, \"claim_id\": \"$$-$(date +%s)-$claims\"}")
  drain=$(printf '%s' "$answer" | jq .drain)
  printf '%s' "$answer" | jq -c '.deliveries[]' | while read -r task; do
    if result=$(printf '%s' "$task" | jq -c '.task.text | split(" ") | length'); then
      end "$task" complete "{\"result\": {\"words\": $result}}"
    else
      end "$task" fail '{"error": {"type": "NoText", "message": "no text to count"}}'
    fi
  done
done
curl -sSf -X DELETE -H "Authorization: Bearer $token" "$url/agents/$me"
