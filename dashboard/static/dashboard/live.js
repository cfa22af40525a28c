// Keeps a page current from the socket /ws/feed. What it needs is in the page: regions
// (data-live), the cursors up to which they are rendered (#live-state), a chip for the
// connection (#connection). Without it, or without a socket, everything else works.
(() => {
  "use strict";

  const FIRST_MOST = 64000; // characters, of the 64 KiB that a first frame may have
  const CAP = 500, AT_ONCE_MS = 250, POLL_MS = 5000, TELL_MS = 10000, HIDDEN_MS = 30000, READ_MS = 30000;
  const state = JSON.parse(document.getElementById("live-state").textContent);
  const chip = document.getElementById("connection");
  const make = (name, attributes = {}, text = "") => {
    const node = Object.assign(document.createElement(name), attributes);
    if (text) node.textContent = text;
    return node;
  };
  const parse = (html) => {
    const template = make("template");
    template.innerHTML = html;
    return [...template.content.children];
  };
  const plural = (n, noun) => `${n.toLocaleString()} ${noun}${n === 1 ? "" : "s"}`;

  // Entry ids are two numbers; as text 9-0 would come after 10-0.
  const newer = (one, other) => {
    const [a, b] = one.split("-").map(Number), [c, d] = other.split("-").map(Number);
    return a - c || b - d;
  };
  const newest = (ids) => ids.sort(newer).at(-1) ?? "0-0";
  // Two topics may give the same entry id, hence the task as well.
  const keyOf = (row) => `${row.dataset.entry} ${row.dataset.task}`;

  let paused = sessionStorage.getItem("live-paused") === "1";
  const PACES = [["Update at once", AT_ONCE_MS], ["Update every 2 s", 2000], ["Update every 10 s", 10000], ["Update every minute", 60000]];
  let paintMs = Number(localStorage.getItem("live-pace")) || AT_ONCE_MS;
  const lists = [], regions = [];

  // A table to which rows come at the top. They wait behind a bar while it is paused,
  // pointed at, focused or scrolled out of sight: nothing moves under the pointer.
  class List {
    constructor(body) {
      this.body = body;
      this.noun = body.dataset.live === "dead" ? "dead letter" : "result";
      this.cap = Number(body.dataset.cap) || CAP;
      this.known = new Set([...body.rows].map(keyOf));
      this.waiting = [];
      this.skipped = 0;
      this.head = "0-0"; // the newest entry when the page was last read again
      this.table = body.closest("table");
      this.bar = make("button", { type: "button", className: "news", hidden: true });
      this.bar.addEventListener("click", () => {
        this.flush();
        this.table.scrollIntoView({ block: "nearest" });
      });
      (this.table.closest(".scroll") || this.table).before(this.bar);
      for (const box of [this.table, this.bar]) box.addEventListener("pointerleave", () => paintSoon());
      body.addEventListener("focusout", () => paintSoon());
    }

    add(row) {
      if (this.known.has(keyOf(row))) return;
      this.known.add(keyOf(row));
      this.waiting.push(row);
      if (this.waiting.length > this.cap) {
        this.forget(this.waiting.shift());
        this.skipped += 1;
      }
    }

    // `at` is when the letter left: one with the same task that came later stays.
    remove(task, at) {
      if (this.noun === "result") return; // of a letter that was discarded, say
      const left = (row) => row.dataset.task === task && newer(row.dataset.entry, at) <= 0;
      this.waiting.filter(left).forEach((row) => this.forget(row));
      this.waiting = this.waiting.filter((row) => !left(row));
      [...this.body.rows].filter((row) => row.dataset.entry && left(row)).forEach((row) => {
        this.forget(row);
        row.remove();
      });
    }

    forget(row) { this.known.delete(keyOf(row)); }

    // Gaps with nothing between them, of many topics say, are one row. A `polled` one was
    // found without a socket: it goes once a socket tells what was missed.
    gap(missed, polled = false) {
      let row = this.waiting.at(-1) ?? (this.held ? null : this.body.rows[0]);
      if (polled || row?.missed === undefined) {
        row = make("tr", { className: "gap" });
        this.waiting.push(row);
      } else if (missed !== null) missed = row.missed === null ? null : row.missed + missed;
      if (polled) row.dataset.polled = "";
      else row.missed = missed;
      const what = missed === null ? `Some ${this.noun}s` : plural(missed, this.noun);
      const says = state.only && missed !== null ? `Of ${what} not all that fit are shown` : `${what} not shown`;
      row.replaceChildren(make("td", { colSpan: 99 }, `${says}: more came than this page was told`));
    }

    get held() {
      const top = (this.table.closest(".scroll") || this.table).getBoundingClientRect().top;
      // The way from a row to the bar leads over the head: the bar must not go meanwhile.
      return paused || top < -40 || this.table.matches(":hover") || this.bar.matches(":hover")
        || this.body.contains(document.activeElement)
        || !getSelection().isCollapsed || document.querySelector("dialog[open]") !== null;
    }

    paint() {
      if (this.waiting.length && !this.held) this.flush();
      const count = this.waiting.length + this.skipped;
      this.bar.hidden = !count;
      if (count) this.bar.textContent = `${count.toLocaleString()} new · show`;
    }

    flush() {
      if (!this.waiting.length) return;
      const rows = this.waiting;
      [this.waiting, this.skipped, this.bar.hidden] = [[], 0, true];
      for (const row of rows) {
        if (!row.dataset.entry) { this.body.prepend(row); continue; } // a gap
        row.dataset.fresh = "";
        // Nearly always the first: rows come in the order of their ids.
        let before = this.body.rows[0];
        while (before?.dataset.entry && newer(before.dataset.entry, row.dataset.entry) > 0) {
          before = before.nextElementSibling;
        }
        this.body.insertBefore(row, before || null);
      }
      while (this.body.rows.length > this.cap) {
        const last = this.body.rows[this.body.rows.length - 1];
        if (last.dataset.entry) this.forget(last);
        last.remove();
      }
    }

    // The rows of the same page as the server renders it now.
    merge(fetched) {
      // A search added more of them (`search.js`).
      for (const row of this.body.rows) this.known.add(keyOf(row));
      const rows = [...fetched.rows].filter((row) => row.dataset.entry);
      const keys = new Set(rows.map(keyOf));
      const oldest = rows.at(-1)?.dataset.entry;
      for (const row of [...this.body.rows]) {
        const gone = row.dataset.entry && !keys.has(keyOf(row))
          && this.noun === "dead letter"
          && (!oldest || newer(row.dataset.entry, oldest) >= 0);
        if (gone) { this.forget(row); row.remove(); }
      }
      // Without a socket, or with new cursors: more came between two looks than a page
      // holds, or than a search that has not ended came to.
      const page = fetched.ownerDocument, goesOn = page.querySelector("[rel=next]");
      const [end] = goesOn ? new URL(goesOn.href).searchParams.get("before")?.split("@") ?? ["0-0"] : ["0-0"];
      const lost = newer(end, newest([this.head, ...Object.values(state.after)])) > 0;
      if (lost && (link.poll || link.anew)) this.gap(null, !link.anew);
      this.head = newest(Object.values(JSON.parse(page.getElementById("live-state").textContent).after));
      rows.reverse().forEach((row) => this.add(document.importNode(row, true)));
    }
  }

  // The page of one letter. It is there to be read, so it does not change by itself: a bar
  // says that somebody replayed or discarded it.
  class Letter {
    constructor(body) { this.body = body; }
    add() {}
    gap() {}
    flush() {}
    paint() {}
    merge() {}
    remove(task, at) {
      const { task: own, entry } = this.body.dataset;
      if (task === own && newer(entry, at) <= 0) this.missing();
    }
    missing() { this.body.hidden = false; }
  }

  // A region that is replaced as a whole, part by part: what has not changed stays, so
  // that focus, hover and selection do too.
  class Region {
    constructor(box) { this.box = box; this.shown = []; this.next = null; }

    paint() {
      if (this.next === null || paused) return;
      const parts = parse(this.next), html = parts.map((part) => part.outerHTML);
      this.next = null;
      const old = [...this.box.children];
      parts.forEach((part, i) => {
        if (!old[i]) this.box.append(part);
        else if (html[i] !== this.shown[i]) this.swap(old[i], part);
      });
      old.slice(parts.length).forEach((part) => part.remove());
      this.shown = html;
    }

    swap(old, part) {
      const focus = old.contains(document.activeElement) && document.activeElement;
      old.replaceWith(part);
      if (!focus) return;
      const again = [part, ...part.querySelectorAll("a, button")]
        .find((node) => node.getAttribute("href") === focus.getAttribute("href"));
      again?.focus();
    }
  }

  for (const box of document.querySelectorAll("[data-live]")) {
    if (box.dataset.task) lists.push(new Letter(box));
    else if (["results", "dead"].includes(box.dataset.live)) lists.push(new List(box));
    else regions.push(new Region(box));
  }

  let painted = 0, timer = 0;
  const paint = () => {
    [timer, painted] = [0, Date.now()];
    [...lists, ...regions].forEach((each) => each.paint());
    document.dispatchEvent(new Event("mesh:painted"));
  };
  function paintSoon() {
    timer = timer || setTimeout(paint, Math.max(0, painted + paintMs - Date.now()));
  }

  // --- what the feed tells

  let told = 0;
  const takes = {
    rows({ op, rows, after }) {
      for (const list of lists) {
        if (list.body.dataset.live === op) rows.forEach(({ html }) => list.add(parse(`<table>${html}</table>`)[0].rows[0]));
      }
      Object.assign(state.after, after);
      told += rows.length;
    },
    results(frame) { this.rows(frame); },
    dead(frame) { this.rows(frame); },
    gone({ left, after }) {
      left.forEach(({ id, at }) => lists.forEach((list) => list.remove(id, at)));
      Object.assign(state.after, after);
    },
    gap({ stream, missed, after }) {
      state.after[stream] = after;
      const [, kind] = stream.match(/^stream:(results|dead):/) ?? []; // or it is of events
      lists.filter((list) => list.body.dataset.live === kind).forEach((list) => list.gap(missed));
      fetchPage();
    },
    region(name, html) {
      regions.filter((each) => each.box.dataset.live === name).forEach((each) => { each.next = html; });
    },
    agents({ html }) { this.region("agents", html); },
    topics({ html }) { this.region("topics", html); },
    tiles({ html }) { this.region("tiles", html); },
    says({ html }) { this.region("says", html); },
    badge({ html }) { this.region("badge", html); },
    topic({ parts }) {
      if (!parts) return link.stop("This topic was deleted");
      for (const [name, html] of Object.entries(parts)) this.region(`topic-${name}`, html);
    },
    live() { link.isLive(); },
    bus({ up }) { show(up ? "live" : "reconnecting", up ? "Live" : "Redis does not answer"); },
    error({ detail }) { link.why = detail; },
  };

  // --- connection

  // It is announced, so it is left alone where it says the same.
  const show = (name, text, ...more) => {
    if (!more.length && chip.dataset.state === name && chip.textContent === text) return;
    chip.dataset.state = name;
    chip.replaceChildren(text, ...more);
  };

  // The same page by GET: where sockets do not get through, and behind a gap. Whoever asks
  // while it is on its way waits for one more, however many ask.
  let reading = null, again = false;
  const fetchPage = () => {
    again = true;
    return reading ??= readPages();
  };
  async function readPages() {
    let ok = false;
    while (again && !link.ended) {
      again = false;
      ok = await readPage();
    }
    reading = null;
    return ok;
  }
  async function readPage() {
    try {
      const signal = AbortSignal.timeout(READ_MS);
      const response = await fetch(state.page || location.href, { cache: "no-store", signal });
      if (response.redirected || response.status === 403) return link.stop("Signed out");
      if (!response.ok) return false;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const find = (box) => page.querySelector(`[data-live="${box.dataset.live}"]`);
      for (const list of lists) { const found = find(list.body); if (found) list.merge(found); else list.missing?.(); }
      for (const each of regions) { const found = find(each.box); if (found) each.next = found.innerHTML; }
      if (link.anew) state.after = JSON.parse(page.getElementById("live-state").textContent).after;
      link.anew = false;
      paintSoon();
      return true;
    } catch {
      return false;
    }
  }

  const link = {
    socket: null, failures: 0, timer: 0, poll: 0, why: "", ended: false,
    sleeping: false, slept: false, anew: false, seconds: null,

    open() {
      clearTimeout(this.timer);
      this.socket?.close(); // one that is still on its way: there is one at a time
      this.why = "";
      if (!this.poll) show("catching-up", this.failures ? "Connecting again" : "Connecting");
      const url = new URL("/ws/feed", location.href);
      url.protocol = url.protocol.replace("http", "ws");
      const socket = this.socket = new WebSocket(url);
      socket.onopen = async () => {
        if (!this.poll) show("catching-up", "Catching up");
        // With more cursors than it holds it would be refused for ever; the page as it is
        // now has fewer.
        if (this.first().length > FIRST_MOST) {
          this.anew = true;
          await fetchPage();
          // Its cursors lie behind what polls have missed: of that nobody tells any more.
          const rows = [...document.querySelectorAll("[data-polled]"), ...lists.flatMap((list) => list.waiting ?? [])];
          rows.forEach((row) => delete row.dataset.polled);
        }
        if (socket === this.socket && socket.readyState === WebSocket.OPEN) socket.send(this.first());
      };
      socket.onmessage = ({ data }) => {
        if (socket !== this.socket) return;
        const frame = JSON.parse(data);
        // What was missed without a socket is told now.
        if (this.poll) document.querySelectorAll("[data-polled]").forEach((row) => row.remove());
        if (frame.op in takes) takes[frame.op](frame);
        paintSoon();
      };
      socket.onclose = ({ code }) => { if (socket === this.socket) this.closed(code); };
    },

    // The first frame, which says what is known and wanted.
    first() {
      const names = [...document.querySelectorAll("[data-live]")];
      const most = names.map((box) => Number(box.dataset.most)).find(Boolean) || null;
      // The parts of a topic's page, topic-…, are told together.
      const regions = [...new Set(names.map((box) => box.dataset.live.split("-")[0]))];
      const wants = { topics: state.topics, html: true, regions, most, only: state.only ?? null };
      return JSON.stringify({ op: "resume", after: state.after, ...wants });
    },

    isLive() {
      clearInterval(this.poll);
      // Rows that left while nothing was heard are not in the streams for ever; a letter
      // may have left between its page and the socket.
      if (this.failures || this.slept || lists.some((list) => list.missing)) fetchPage();
      [this.failures, this.poll, this.slept] = [0, 0, false];
      show("live", "Live");
    },

    closed(code) {
      this.socket = null;
      if (this.ended || this.sleeping) return;
      if (code === 4401) return this.stop("Signed out");
      if (code === 4403 || code === 4400) return this.stop(this.why || "Not allowed");
      this.failures += 1;
      if (this.failures >= 3 && !this.poll) this.startPolling();
      const most = Math.min(30000, 500 * 2 ** (this.failures - 1)) * (code === 4429 ? 4 : 1);
      this.count(Date.now() + most * (0.5 + Math.random() / 2));
    },

    // Counts down to the next try. Only the words are announced, not each second, and the
    // button stays the same one: it may have the focus.
    count(at) {
      if (this.sleeping) return;
      const left = Math.ceil((at - Date.now()) / 1000);
      if (left <= 0) return this.open();
      if (!this.poll) {
        if (!this.seconds?.isConnected) this.showCount();
        this.seconds.textContent = ` in ${left} s `;
      }
      this.timer = setTimeout(() => this.count(at), Math.min(1000, at - Date.now()));
    },

    showCount() {
      const retry = make("button", { type: "button", className: "link" }, "retry now");
      retry.addEventListener("click", () => this.open());
      this.seconds = make("span", { ariaHidden: "true" });
      show("reconnecting", "Reconnecting", this.seconds, retry);
    },

    startPolling() {
      const look = async () => {
        if (this.sleeping) return;
        const ok = await fetchPage();
        if (!this.poll || this.ended) return;
        if (ok) show("polling", "No live connection, refreshing every 5 s");
        else show("offline", "The server does not answer");
      };
      this.poll = setInterval(look, POLL_MS);
      look();
    },

    stop(text) {
      this.ended = true;
      clearTimeout(this.timer);
      clearInterval(this.poll);
      this.socket?.close();
      const again = make("a", { href: state.page || location.href }, "reload");
      show("offline", `${text} · `, again);
      return false;
    },
  };

  // A tab that nobody sees for a while hears nothing; it resumes where it was.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(link.nap);
    if (document.hidden) {
      link.nap = setTimeout(() => { link.sleeping = true; link.socket?.close(); }, HIDDEN_MS);
    } else if (link.sleeping) {
      [link.sleeping, link.slept] = [false, true];
      if (!link.ended) link.open();
    }
  });

  const button = make("button", { type: "button", className: "button small", id: "live-pause" });
  const label = () => {
    button.textContent = paused ? "Resume updates" : "Pause updates";
    button.title = paused ? "Show what comes again" : "Let the page stand still";
    button.setAttribute("aria-pressed", paused);
  };
  button.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("live-paused", paused ? "1" : "0");
    label();
    if (!paused) lists.forEach((list) => list.flush());
    paintSoon();
  });
  label();

  // How often the page changes while it is looked at; what comes meanwhile is not lost.
  const pace = make("select", { id: "live-pace", title: "How often this page changes", ariaLabel: "How often this page changes" });
  for (const [text, ms] of PACES) pace.append(make("option", { value: ms, selected: ms === paintMs }, text));
  pace.addEventListener("change", () => {
    paintMs = Number(pace.value);
    localStorage.setItem("live-pace", pace.value);
    clearTimeout(timer);
    timer = 0;
    paintSoon();
  });
  chip.after(button, pace);

  const summary = make("span", { className: "visually-hidden", role: "status" });
  chip.after(summary);
  setInterval(() => {
    if (told && !paused) summary.textContent = `${plural(told, "new row")} in ${TELL_MS / 1000} seconds`;
    told = 0;
  }, TELL_MS);
  addEventListener("scroll", paintSoon, { passive: true });

  link.open();
})();
