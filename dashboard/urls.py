"""Routes of the dashboard."""

from __future__ import annotations

from django.urls import path

from dashboard import (
    actions,
    audit_page,
    bulk,
    edits,
    gateway_page,
    many,
    matching,
    saving,
    sending,
    settings_page,
    sign_in,
    topic_actions,
    views,
)

app_name = "dashboard"
urlpatterns = [
    path("", views.overview, name="overview"),
    path("topics/", views.topics, name="topics"),
    path("topics/<str:topic>/", views.topic, name="topic"),
    path("topics/<str:topic>/send", sending.send, name="send"),
    path("topics/<str:topic>/new", sending.new, name="send-new"),
    path("topics/<str:topic>/pause", actions.pause, name="pause"),
    path("topics/<str:topic>/resume", actions.resume, name="resume"),
    path("topics/<str:topic>/limits", topic_actions.limits, name="limits"),
    path("topics/<str:topic>/purge", topic_actions.purge, name="purge"),
    path("topics/<str:topic>/settle", topic_actions.settle, name="settle"),
    path("topics/<str:topic>/delete", topic_actions.delete, name="delete-topic"),
    path("tasks/", views.tasks, name="tasks"),
    path("tasks/cancel", many.cancel, name="cancel-ticked"),
    path("tasks/cancel-matching", matching.cancel, name="cancel-matching"),
    path("tasks/<str:task_id>/", views.task, name="task"),
    path("tasks/<str:task_id>/cancel", actions.cancel, name="cancel"),
    path("tasks/<str:task_id>/run", actions.run, name="run"),
    path("results/", views.results, name="results"),
    path("agents/", views.agents, name="agents"),
    path("agents/<str:agent_id>/", views.agent, name="agent"),
    path("agents/<str:agent_id>/drain", actions.drain, name="drain"),
    path("dead/", views.dead, name="dead"),
    path("dead/discard", many.discard, name="discard-ticked"),
    path("dead/groups/<str:fingerprint>/", views.group, name="group"),
    path(
        "dead/groups/<str:fingerprint>/discard",
        many.discard_alike,
        name="discard-alike",
    ),
    path("dead/<str:task_id>/", views.letter, name="letter"),
    path("dead/<str:task_id>/edit", edits.edit, name="edit"),
    path("dead/<str:task_id>/replay", actions.replay, name="replay"),
    path("dead/<str:task_id>/discard", actions.discard, name="discard"),
    path("dead/<str:task_id>/undo", actions.undo, name="undo"),
    path("ollama/", gateway_page.gateway, name="ollama"),
    path("ollama/ask", gateway_page.ask, name="ollama-ask"),
    path(
        "ollama/generations/<str:generation>/end", gateway_page.end, name="ollama-end"
    ),
    path("audit/", audit_page.trail, name="audit"),
    path("settings/", settings_page.settings, name="settings"),
    path("settings/tokens", settings_page.make_token, name="make-token"),
    path(
        "settings/tokens/<str:key>/revoke",
        settings_page.revoke_token,
        name="revoke-token",
    ),
    path("replays/", bulk.index, name="bulks"),
    path("replays/new", bulk.new, name="bulk-new"),
    path("replays/<str:job_id>/", bulk.job, name="bulk"),
    path("replays/<str:job_id>/start", bulk.start, name="bulk-start"),
    path("replays/<str:job_id>/pause", bulk.pause, name="bulk-pause"),
    path("replays/<str:job_id>/cancel", bulk.cancel, name="bulk-cancel"),
    path("replays/<str:job_id>/discard", many.discard_chosen, name="bulk-discard"),
    path("login/", sign_in.login, name="login"),
    path("logout", sign_in.logout, name="logout"),
    path("views/save", saving.save, name="save-view"),
    path("views/forget", saving.forget, name="forget-view"),
    path("theme", sign_in.theme, name="theme"),
]
