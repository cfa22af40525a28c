// What pages gain by a script: copy buttons, filters without a button, times that say
// how long ago. Each page works without it.
(() => {
  "use strict";

  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

  const relative = (seconds) => {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [unit, length] = UNITS.find(([, each]) => size >= each);
    const text = `${Math.floor(size / length)} ${unit}`;
    return seconds < 0 ? `${text} ago` : `in ${text}`;
  };

  const refreshTimes = () => {
    if (document.hidden) return;
    const now = Date.now();
    for (const time of document.querySelectorAll("time[datetime]:not([data-absolute])")) {
      const text = relative((Date.parse(time.dateTime) - now) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const copy = async (button) => {
    const source = button.dataset.copy && document.getElementById(button.dataset.copy);
    const text = source ? source.textContent : button.dataset.copyText;
    await navigator.clipboard.writeText(text);
    button.dataset.done = "";
    setTimeout(() => delete button.dataset.done, 1500);
  };

  const revealCopy = () => {
    if (!navigator.clipboard) return; // only where the page is served securely
    for (const button of document.querySelectorAll("[data-copy], [data-copy-text]")) {
      button.hidden = false;
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-text]");
    if (button) copy(button);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-autosubmit]")) event.target.form.requestSubmit();
  });
  // Gone back to: a browser puts into a filter what was chosen last, the list has not.
  addEventListener("pageshow", ({ persisted }) => {
    const [how] = performance.getEntriesByType("navigation");
    if (!persisted && how?.type !== "back_forward") return;
    document.querySelectorAll("form[method=get]").forEach((form) => form.reset());
  });

  // Ticks of the rows of a list: one for all of them, and with shift for all between.
  const ticks = () => [...document.querySelectorAll('td.tick input[type="checkbox"]')];
  const tickAll = document.querySelector("[data-tick-all]");
  const allTicked = () => {
    const all = ticks();
    if (tickAll) tickAll.checked = all.length > 0 && all.every((each) => each.checked);
  };
  let lastTick = null;
  if (tickAll) tickAll.closest("label").hidden = false;
  document.addEventListener("click", (event) => {
    const box = event.target;
    if (box === tickAll) for (const each of ticks()) each.checked = box.checked;
    if (!box.matches('td.tick input[type="checkbox"]')) return;
    const all = ticks(), from = all.indexOf(lastTick), to = all.indexOf(box);
    if (event.shiftKey && from >= 0) {
      for (const each of all.slice(Math.min(from, to), Math.max(from, to) + 1)) each.checked = box.checked;
    }
    lastTick = box;
    allTicked();
  });

  // g and a letter goes to a page, / to the search, ? lists them. Not while somebody
  // types, and not at all where they are switched off: speech input would set them off.
  const help = document.getElementById("keys"), keysOn = document.getElementById("keys-on");
  const helpButton = document.querySelector("[data-keys]");
  let wentAt = 0;
  if (help && helpButton) {
    keysOn.checked = localStorage.getItem("keys") !== "off";
    keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
    helpButton.hidden = false;
    helpButton.addEventListener("click", () => help.showModal());
    document.addEventListener("keydown", (event) => {
      const busy = event.ctrlKey || event.metaKey || event.altKey || help.open
        || event.target.closest("input, select, textarea");
      if (busy || !keysOn.checked) return;
      const search = document.querySelector('main input[type="search"]');
      const page = Date.now() - wentAt < 1500
        && document.querySelector(`.nav a[data-key="${CSS.escape(event.key)}"]`);
      wentAt = event.key === "g" ? Date.now() : 0;
      if (page) page.click();
      else if (event.key === "?") help.showModal();
      else if (event.key === "/" && search) { event.preventDefault(); search.focus(); }
    });
  }

  // A second click on a form that is on its way would only be told that it is done. Others,
  // that close the list of keys say, go nowhere.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent !== undefined) event.preventDefault();
    event.target.dataset.sent = "";
    setTimeout(() => delete event.target.dataset.sent, 3000);
  });
  for (const name of ["htmx:after:swap", "mesh:painted"]) {
    document.addEventListener(name, () => { revealCopy(); refreshTimes(); allTicked(); });
  }

  // Nobody sees a part of a hidden tab.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden) event.preventDefault();
  });

  // A page that refreshes a part of itself keeps it where the answer is an error: it says so
  // and goes on trying. Live pages say it themselves.
  const chip = document.getElementById("live-state") ? null : document.getElementById("connection");
  const stands = (text) => {
    if (!chip || chip.textContent === text) return;
    chip.dataset.state = text ? "reconnecting" : "off";
    chip.textContent = text;
  };
  document.addEventListener("htmx:before:swap", (event) => {
    const { status } = event.detail.ctx.response;
    if (status >= 400) event.preventDefault();
    stands(status < 400 ? "" : status === 503 ? "Redis does not answer" : "The page cannot be refreshed");
  });
  document.addEventListener("htmx:error", () => stands("The server does not answer"));

  revealCopy();
  refreshTimes();
  setInterval(refreshTimes, 1000);
})();
