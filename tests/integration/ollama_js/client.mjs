// Ollama's own JavaScript client, with the mesh as its host: what it was told, as JSON.
import { Ollama } from "ollama";

const { MESH, TOKEN, MODEL } = process.env;
const headers = { Authorization: `Bearer ${TOKEN}` };
const client = new Ollama({ host: `${MESH}/api/v1/mesh/ollama`, headers });
const options = { num_predict: 8, temperature: 0, seed: 2 };
const asked = { model: MODEL, prompt: "hello", options };
const talk = { model: MODEL, messages: [{ role: "user", content: "hello" }], options };

async function pieces(stream) {
  const found = [];
  for await (const piece of stream) found.push(piece);
  return found;
}

async function refusal(call) {
  try {
    await call;
  } catch (error) {
    return { status: error.status_code, error: error.message };
  }
  return null;
}

const told = {
  streamed: await pieces(await client.generate({ ...asked, stream: true })),
  whole: await client.generate(asked),
  spoken: await pieces(await client.chat({ ...talk, stream: true })),
  chat: await client.chat(talk),
  models: (await client.list()).models.map((model) => model.model),
  capabilities: (await client.show({ model: MODEL })).capabilities,
  unknown: await refusal(client.generate({ ...asked, model: "llama3.2" })),
  odd: await refusal(client.generate({ ...asked, keep_alive: "5m" })),
};
console.log(JSON.stringify(told));
