// One inbox: its head, its rates, and the events that keep the page up to date.

function showInbox(id) {
  const base = `/api/inboxes/${encodeURIComponent(id)}`;
  let list = null;
  const detail = requestDetail(base, id, () => list);
  list = requestList((request) => { detail.show(request); if (!request) hint(); });
  const editor = rulesEditor((script) => call("PUT", `${base}/response`, { script }));
  let waiting = [];            // requests that arrived since the last frame
  let firstSeq = 0;
  let events = null;

  function arrange() { const requests = waiting; waiting = []; list.add(requests); }

  function describe(inbox) {
    document.title = `${inbox.name} – inspector`;
    text(at("title"), `Inbox ${inbox.name}`);
    text(at("url"), inbox.url);
    text(at("answers"), inbox.response.words.join("; "));
    at("openEditor").title = `Answers ${inbox.response.words.join("; ")}`;
    editor.activate(inbox.response);
    text(at("clearedWords"), `${number(inbox.restorable, "request")} cleared.`);
    at("cleared").hidden = !inbox.restorable;
    list.trim(inbox.first_seq, inbox.count);
    if (inbox.first_seq < firstSeq) { list.reset(); follow(inbox); }   // a clearing was undone
    firstSeq = inbox.first_seq;
    if (list.isEmpty()) hint();
  }

  function hint() {
    const key = list.isEmpty() ? at("url").textContent : "chosen";
    if (at("hint").dataset.key === key) return;
    at("hint").dataset.key = key;
    if (key === "chosen") {
      at("hint").replaceChildren(element("p", "Select a request with a click or with j and k. Press / to filter, and ? for all keys.", "soft"));
      return;
    }
    const commands = [
      ["Try it in a terminal", `curl -d '{"hello": "world"}' ${key}`],
      ["Forward requests to your own server", `userhooks listen --forward-to http://localhost:3000/hooks --inbox ${shellWord(at("title").textContent.slice(6))}`],
    ];
    const children = commands.flatMap(([title, command]) => {
      const head = element("div", undefined, "titled");
      head.append(element("h2", title), button("Copy", () => attempt(() => copy(command, "Command"))));
      return [head, element("pre", command)];
    });
    at("hint").replaceChildren(element("h2", "No requests"), element("p", "This inbox is empty. Requests to the URL above appear here immediately."), ...children);
  }

  function follow(inbox) {
    events?.close();
    waiting = [];
    events = new EventSource(`${base}/events?after=${Math.max(0, inbox.last_seq - MAX_ENTRIES)}`);
    events.addEventListener("open", () => connection("live", "good"));
    events.addEventListener("error", (event) => {
      const refused = event.target.readyState === EventSource.CLOSED;   // the response was not an event stream
      if (refused) connection("access has expired; reload the page", "bad"); else connection("the inspector does not answer; retrying", "warn");
    });
    events.addEventListener("request", (event) => {
      waiting.push(JSON.parse(event.data));
      if (waiting.length === 1) requestAnimationFrame(arrange);
    });
    events.addEventListener("inbox", (event) => { if (waiting.length) arrange(); describe(JSON.parse(event.data)); });
  }
  function connection(words, kind) { text(at("connection"), words).className = `state ${kind}`; }

  async function draw() {
    if (document.hidden) return;
    let seconds;
    try { seconds = (await call("GET", `${base}/rates?seconds=60`)).rates; } catch { return; }   // the connection's state already says why
    const peak = Math.max(...seconds.map((second) => second.requests));
    bars(at("rateBars"), seconds.map((second) => second.requests), peak);
    bars(at("refusedBars"), seconds.map((second) => second.refused), peak);
    const total = seconds.reduce((sum, second) => sum + second.requests, 0), refused = seconds.reduce((sum, second) => sum + second.refused, 0);
    text(at("rateWords"), total ? `${number(total, "request")} in the last minute, at most ${peak.toLocaleString("en")}/s, ${refused.toLocaleString("en")} refused` : "No requests in the last minute");
    const timed = seconds.filter((second) => second.latency_ms);
    const slowest = Math.max(0, ...timed.map((second) => second.latency_ms.p50));
    bars(at("latencyBars"), seconds.map((second) => second.latency_ms?.p50 ?? 0), slowest);
    const last = timed.at(-1)?.latency_ms;
    text(at("latencyWords"), last ? `Commit to receipt: latest median ${duration(last.p50)}, maximum ${duration(Math.max(...timed.map((second) => second.latency_ms.max)))}` : "No messages in the last minute");
  }
  function bars(path, values, highest) {
    const step = 240 / values.length;
    path.setAttribute("d", values.map((value, n) => value ? `M${n * step} 40v${-38 * value / highest}h${step * 0.8}v${38 * value / highest}z` : "").join(""));
  }

  at("copy").addEventListener("click", () => attempt(() => copy(at("url").textContent, "URL")));
  at("clear").addEventListener("click", () => attempt(() => call("DELETE", `${base}/requests`)));
  at("undo").addEventListener("click", () => attempt(() => call("POST", `${base}/requests/restore`, {})));

  call("GET", base).then((inbox) => {
    at("inbox").hidden = false;
    at("download").href = `${base}/requests.ndjson`;
    at("download").download = `${inbox.name}.ndjson`;
    describe(inbox);
    draw();
    setInterval(draw, 1000);
    follow(inbox);
  }).catch((error) => { text(at("unknown"), error.message).hidden = false; });
}
