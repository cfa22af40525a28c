// Lets a search go on by itself. Its page comes with what a moment's look found: from
// #onward on, part by part, rows are added (or #found is replaced), and #sought says among
// how many, until the page is full, there is no more, or somebody stops it. Without this
// script there is a link or a button to go on.
(() => {
  "use strict";

  const PAUSE_MS = 50; // the server has others to answer
  const FAILURES_MOST = 5;
  const REFUSALS = { 403: "No longer allowed", 404: "No longer there" };
  const onward = document.getElementById("onward");
  const seeking = onward?.querySelector(".seeking"), further = onward?.querySelector("[data-further]");
  if (!seeking) return;
  const rows = document.querySelector("tbody[data-found]");
  const says = document.createElement("span");
  Object.assign(says, { className: "visually-hidden", role: "status" });
  onward.after(says);

  let stopped = false;
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const shows = (searching) => {
    seeking.hidden = !searching;
    further.hidden = searching;
    document.body.toggleAttribute("data-searching", searching);
    if (searching) return;
    renew();
    says.textContent = document.getElementById("sought")?.textContent ?? "";
  };
  // Unlike `says` at the end, for all to see: nothing else tells that it did not end.
  const givesUp = (why) => {
    shows(false);
    says.className = "hint";
    says.textContent = `${why}: not all was looked at.`;
  };
  seeking.querySelector("button").addEventListener("click", () => {
    stopped = true;
    shows(false);
    further.focus();
  });

  // The page of the next part, or why there will be none; what may pass is an error.
  const ask = async () => {
    const form = onward.matches("form") && { method: "POST", body: new FormData(onward) };
    const response = await fetch(onward.dataset.next, { cache: "no-store", ...form });
    if (response.redirected) return { why: "Signed out" };
    if (response.status in REFUSALS) return { why: REFUSALS[response.status] };
    if (!response.ok) throw new Error(response.status);
    return { page: new DOMParser().parseFromString(await response.text(), "text/html") };
  };

  // Without what the next part is asked by, it was the last.
  const goesOn = (next) => {
    if (!next?.dataset.next) return false;
    onward.dataset.next = next.dataset.next;
    if (further.href) further.href = next.querySelector("[data-further]").href;
    for (const field of next.querySelectorAll("input[type=hidden]")) onward.elements[field.name].value = field.value;
    return true;
  };

  // #found by now. It waits while somebody points at it, or is in it with the keyboard.
  let latest = null;
  const renew = () => {
    if (!latest) return;
    const found = document.getElementById("found");
    const href = found.contains(document.activeElement) && document.activeElement.getAttribute("href");
    found.replaceWith(latest);
    if (href) latest.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
    latest = null;
  };

  const take = (page) => {
    rows?.append(...page.querySelector("tbody[data-found]")?.rows ?? []);
    document.getElementById("sought")?.replaceWith(page.getElementById("sought"));
    latest = page.getElementById("found");
    if (!document.querySelector("#found:is(:hover, :focus-within)")) renew();
    document.dispatchEvent(new Event("mesh:painted"));
  };

  const search = async () => {
    shows(true);
    for (let failures = 0; !stopped;) {
      await pause(failures ? 500 * 2 ** failures : PAUSE_MS);
      let page, why;
      try {
        ({ page, why } = await ask());
        failures = 0;
      } catch {
        failures += 1;
        if (failures < FAILURES_MOST) continue;
        why = "The server does not answer";
      }
      if (stopped) return;
      if (why) return givesUp(why);
      take(page);
      const next = page.getElementById("onward");
      if (goesOn(next)) continue;
      const focused = onward.contains(document.activeElement);
      shows(false);
      for (const words of document.querySelectorAll("[data-ended]")) words.textContent = words.dataset.ended;
      if (next) onward.replaceWith(next);
      else onward.remove();
      if (focused) (next?.querySelector("a") ?? document.getElementById("main")).focus({ preventScroll: true });
      return;
    }
  };
  search();
})();
