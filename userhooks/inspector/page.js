"use strict";
const MAX_ENTRIES = 10000;       // on the page; the inbox stores more
const PART_ENTRIES = 50;         // per part of the list; the browser skips the layout of parts that are out of sight
const FULL_BODY_BYTES = 1 << 20; // longer bodies are previewed
const PREVIEW_BYTES = 64 << 10;
const at = (id) => document.getElementById(id);

// Insert every value into the page with `text` or `element`, never as markup.
function text(node, value) { node.textContent = value; return node; }
function element(tag, value, className) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (value !== undefined) text(node, value);
  return node;
}
function number(value, noun) { return `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`; }

async function call(method, path, payload) {
  const options = { method, headers: {} };
  if (payload !== undefined) { options.body = JSON.stringify(payload); options.headers["Content-Type"] = "application/json"; }
  const response = await fetch(path, options);
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// ---- the list of inboxes -------------------------------------------------------------------------------------------
function showInboxes() {
  at("inboxes").hidden = false;
  const rows = new Map();
  async function refresh() {
    let inboxes;
    try { inboxes = (await call("GET", "/api/inboxes")).inboxes; text(at("state"), ""); }
    catch { text(at("state"), "the inspector does not answer"); return; }
    at("none").hidden = inboxes.length > 0;
    for (const inbox of inboxes) {
      let row = rows.get(inbox.id);
      if (!row) {
        row = element("tr");
        const link = element("a", inbox.name);
        link.href = `/inboxes/${encodeURIComponent(inbox.id)}`;
        row.append(element("td"), element("td", "", "number"), element("td", "", "number"), element("td"));
        row.cells[0].append(link);
        row.cells[3].append(element("code", inbox.url));
        rows.set(inbox.id, row);
        at("rows").append(row);
      }
      text(row.cells[1], inbox.count.toLocaleString("en"));
      text(row.cells[2], inbox.dropped.toLocaleString("en"));
    }
  }
  at("create").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("problem").hidden = true;
    try {
      const inbox = await call("POST", "/api/inboxes", at("name").value ? { name: at("name").value } : {});
      location.assign(`/inboxes/${encodeURIComponent(inbox.id)}`);
    } catch (error) { text(at("problem"), error.message).hidden = false; }
  });
  refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, 2000);
}

// ---- one inbox -----------------------------------------------------------------------------------------------------
function showInbox(id) {
  const base = `/api/inboxes/${encodeURIComponent(id)}`;
  const list = at("list");
  const entries = new Map();   // seq -> { request without its body, node, searchText }
  let waiting = [];            // requests that arrived since the last frame
  let selected = null;         // seq

  function describe(inbox) {
    document.title = `${inbox.name} – inspector`;
    text(at("title"), `Inbox ${inbox.name}`);
    text(at("url"), inbox.url);
    text(at("counts"), number(inbox.count, "request") + (inbox.dropped ? `, ${inbox.dropped.toLocaleString("en")} older requests dropped` : ""));
    text(at("answers"), `answers ${inbox.response.words.join("; ")}`);
    for (const part of ["back", "address", "clear", "openEditor", "download"]) at(part).hidden = false;
    if (at("editor").hidden) editor.show(inbox.response.script);
    for (const [seq, entry] of entries) if (seq < inbox.first_seq) forget(seq, entry);
    hint();
  }

  function forget(seq, entry) {
    const part = entry.node.parentElement;
    entry.node.remove();
    if (part.firstElementChild) fit(part); else part.remove();
    entries.delete(seq);
    if (selected === seq) { selected = null; at("shown").hidden = true; }
  }

  function hint() {
    at("hint").hidden = selected !== null;
    if (entries.size) text(at("hint"), "Select a request with a click, the arrow keys, or j and k. Press / to filter.");
    else text(at("hint"), `Nothing received yet. Requests to the URL above appear here immediately. Try it in a terminal: curl -d hello ${at("url").textContent}`);
  }

  // Set the height of a part, which the browser does not compute while the part is out of sight. All visible entries have the same height.
  function fit(part) {
    let shown = 0;
    for (const node of part.children) if (!node.hidden) shown++;
    part.style.containIntrinsicBlockSize = `${2 * shown}rem`;
  }

  function add(node) {                                 // newest first, while the map is in order of arrival
    let part = list.firstElementChild;
    if (!part || part.childElementCount >= PART_ENTRIES) { part = element("div", undefined, "part"); part.setAttribute("role", "none"); list.prepend(part); }
    part.prepend(node);
    return part;
  }

  function arrange() {
    const changed = new Set();
    for (const request of waiting) {
      const known = entries.get(request.seq);
      const node = row(request);
      const entry = { request: { ...request, body: null, decoded: null }, node, searchText: searchText(request) };
      node.hidden = !matches(entry);
      entries.set(request.seq, entry);
      if (known) { known.node.replaceWith(node); changed.add(node.parentElement); if (selected === request.seq) select(request.seq, false); }
      else changed.add(add(node));
    }
    waiting = [];
    changed.forEach(fit);
    while (entries.size > MAX_ENTRIES) { const [seq, entry] = entries.entries().next().value; forget(seq, entry); }
    count();
    hint();
  }

  // ---- the filter: a request matches if it contains every word
  let filterWords = [];
  function searchText(request) {
    const headers = request.headers.map(([name, value]) => `${name}: ${value}`).join(" ");
    const labels = [...request.judgements.map(named), request.secret === "not applicable" ? "" : `secret ${request.secret}`, request.response, request.note];
    const body = request.body_encoding === "base64" ? request.decoded ?? "" : request.body;
    return [request.method, request.path, request.query, ...answerOf(request).slice(0, 1), summary(request), ...labels, headers, body.slice(0, 2000)].join(" ").toLowerCase();
  }
  function matches(entry) { return filterWords.every((word) => entry.searchText.includes(word)); }
  function count() {
    if (!filterWords.length) { text(at("matches"), ""); return; }
    let shown = 0;
    for (const entry of entries.values()) if (!entry.node.hidden) shown++;
    text(at("matches"), `${shown.toLocaleString("en")} of ${entries.size.toLocaleString("en")}`);
  }
  at("filter").addEventListener("input", () => {
    filterWords = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const entry of entries.values()) entry.node.hidden = !matches(entry);
    [...list.children].forEach(fit);
    count();
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select");
    if (event.key === "/" && !typing) { event.preventDefault(); at("filter").focus(); }
    if (event.key === "Escape" && event.target === at("filter")) {
      at("filter").value = "";
      at("filter").dispatchEvent(new Event("input"));
      list.focus();
    }
  });

  function row(request) {
    const node = element("div", undefined, "entry");
    node.id = `request-${request.seq}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(selected === request.seq));
    node.dataset.seq = request.seq;
    const time = new Date(request.received_at);
    const [answer, kind] = answerOf(request);
    node.append(
      element("span", request.seq, "soft"),
      element("span", `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`),
      element("span", answer, kind),
      summaryCell(request),
      element("span", request.secret === "not applicable" ? "–" : request.secret, { ok: "good", wrong: "bad", missing: "bad" }[request.secret] || "soft"),
    );
    return node;
  }

  function summaryCell(request) {
    const cell = element("span");
    for (const judgement of request.judgements) {
      if (judgement.kind !== "secret") cell.append(element("span", named(judgement), judgement.kind === "foreign" ? "badge bad" : "badge"), " ");
    }
    cell.append(summary(request));
    return cell;
  }

  function select(seq, scroll = true) {
    const entry = entries.get(seq);
    if (!entry) return;
    const before = entries.get(selected);
    if (before) before.node.setAttribute("aria-selected", "false");
    selected = seq;
    entry.node.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", entry.node.id);
    if (scroll) entry.node.scrollIntoView({ block: "nearest" });
    hint();
    detail(entry.request);
  }

  async function detail(request) {
    const limit = request.size > FULL_BODY_BYTES ? PREVIEW_BYTES : FULL_BODY_BYTES;
    let shown;
    try { shown = (await call("GET", `${base}/requests?after=${request.seq - 1}&limit=1&body_limit=${limit}`)).requests[0]; }
    catch (error) { text(at("state"), error.message); return; }
    if (selected !== request.seq || !shown || shown.seq !== request.seq) return;
    text(at("target"), `${shown.method} ${shown.path}${shown.query ? `?${shown.query}` : ""}`);
    text(at("when"), `#${shown.seq}, received ${shown.received_at}, ${number(shown.size, "byte")}, ${answered(shown)}`);
    text(at("note"), shown.note).hidden = !shown.note;
    text(at("verdict"), `Secret ${shown.secret}.`).className = { ok: "good", wrong: "bad", missing: "bad" }[shown.secret] || "soft";
    text(at("reason"), shown.secret_reason);
    at("headers").tBodies[0].replaceChildren(...shown.headers.map(([name, value]) => {
      const line = element("tr", undefined, "code");
      line.append(element("td", name), element("td", value));
      return line;
    }));
    text(at("cut"), `The body has ${number(shown.size, "byte")}; only the first ${PREVIEW_BYTES.toLocaleString("en")} are shown.`).hidden = !shown.truncated;
    at("judgements").replaceChildren(...shown.judgements.filter((judgement) => judgement.kind !== "secret").map((judgement) => {
      const { kind, seq } = judgement;
      const line = element("li", judgement.text, kind === "foreign" ? "bad" : "odd");
      if (seq !== undefined && entries.has(seq)) {
        const show = element("button", `Show #${seq}`);
        show.type = "button";
        show.addEventListener("click", () => { const { node } = entries.get(seq); node.hidden = false; fit(node.parentElement); select(seq); });
        line.append(" ", show);
      }
      return line;
    }));
    const compressed = shown.decoded !== null;
    const [body, encoding, cut] = compressed ? [shown.decoded, shown.decoded_encoding, shown.decoded_truncated] : [shown.body, shown.body_encoding, shown.truncated];
    const binary = encoding === "base64";
    const pretty = binary || cut ? null : indented(body);
    at("prettyPart").hidden = pretty === null;
    text(at("pretty"), pretty ?? "");
    const title = compressed ? "Body, decompressed" : shown.size ? "Body, raw" : "Body: empty";
    text(at("rawTitle"), binary ? "Body, hexadecimal (not UTF-8)" : title);
    text(at("raw"), binary ? hexadecimal(atob(body)) : body).hidden = !shown.size;
    at("packedPart").hidden = !compressed;
    text(at("packed"), compressed ? hexadecimal(shown.body_encoding === "base64" ? atob(shown.body) : shown.body) : "");
    at("shown").hidden = false;
  }

  function answered(request) {
    if (request.response_status === null) return request.note ? "not answered" : "not answered yet";
    const rule = request.response.includes(", rule ") ? ` by ${request.response.slice(request.response.indexOf(", ") + 2)}` : "";
    return `answered ${request.response_status}${rule}`;
  }

  // ---- actions on the selected request
  async function fullRequest() {
    return (await call("GET", `${base}/requests?after=${selected - 1}&limit=1`)).requests[0];
  }
  at("curl").addEventListener("click", async () => {
    try {
      const command = curlOf(await fullRequest(), new URL(at("url").textContent).origin);
      await navigator.clipboard.writeText(command);
      text(at("state"), "cURL command copied");
    } catch (error) { text(at("state"), error.message); }
  });
  at("again").addEventListener("click", async () => {
    const target = at("whereto");
    try {
      const result = await call("POST", `${base}/requests/${selected}/send`, { inbox: target.value });
      const outcome = result.status === null ? "it did not answer" : `it answered ${result.status}`;
      text(at("state"), `#${selected} sent to ${target.selectedOptions[0].textContent}: ${outcome}`);
    } catch (error) { text(at("state"), error.message); }
  });
  async function listTargets() {
    const inboxes = (await call("GET", "/api/inboxes")).inboxes;
    at("whereto").replaceChildren(...inboxes.map((inbox) => {
      const option = element("option", inbox.id === id ? "this inbox" : inbox.name);
      option.value = inbox.id;
      option.selected = inbox.id === id;
      return option;
    }));
  }
  at("whereto").addEventListener("focus", () => listTargets().catch(() => {}), { once: true });

  // ---- the inbox's answers
  const editor = rulesEditor(async (script) => { await call("PUT", `${base}/response`, { script }); });
  at("openEditor").addEventListener("click", () => {
    at("editor").hidden = !at("editor").hidden;
    at("openEditor").setAttribute("aria-expanded", String(!at("editor").hidden));
  });

  // ---- plots of the last minute
  async function draw() {
    if (document.hidden) return;
    let seconds;
    try { seconds = (await call("GET", `${base}/rates?seconds=60`)).rates; } catch { return; }
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
  function duration(ms) {
    if (ms < 1000) return `${Number(ms.toPrecision(2))} ms`;
    for (const [unit, length] of [["days", 86400e3], ["h", 3600e3], ["min", 60e3]]) if (ms >= 2 * length) return `${(ms / length).toFixed(1)} ${unit}`;
    return `${(ms / 1000).toFixed(1)} s`;
  }

  list.addEventListener("click", (event) => {
    const node = event.target.closest(".entry");
    if (node) select(Number(node.dataset.seq), false);
  });
  list.addEventListener("keydown", (event) => {
    const current = entries.get(selected)?.node;
    const page = Math.max(1, Math.floor(at("side").clientHeight / (list.querySelector(".entry")?.offsetHeight || 32)) - 1);
    const older = (node) => node.nextElementSibling ?? node.parentElement.nextElementSibling?.firstElementChild;
    const newer = (node) => node.previousElementSibling ?? node.parentElement.previousElementSibling?.lastElementChild;
    const visible = (node, direction) => { while (node?.hidden) node = direction(node); return node; };
    const step = (node, direction, count) => {
      for (let next; node && count > 0 && (next = visible(direction(node), direction)); count--) node = next;
      return node;
    };
    const first = visible(list.firstElementChild?.firstElementChild, older);
    const key = { j: "ArrowDown", k: "ArrowUp" }[event.key] ?? event.key;
    const next = {
      ArrowDown: () => current ? step(current, older, 1) : first,
      ArrowUp: () => current ? step(current, newer, 1) : first,
      PageDown: () => step(current ?? first, older, page),
      PageUp: () => step(current ?? first, newer, page),
      Home: () => first ?? null,
      End: () => visible(list.lastElementChild?.lastElementChild, newer) ?? null,
    }[key]?.();
    if (next === undefined) return;
    event.preventDefault();
    if (next) select(Number(next.dataset.seq));
  });
  at("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(at("url").textContent);
    text(at("state"), "URL copied");
  });
  at("clear").addEventListener("click", () => call("DELETE", `${base}/requests`).catch((error) => text(at("state"), error.message)));

  call("GET", base).then((inbox) => {
    at("inbox").hidden = false;
    at("download").href = `${base}/requests.ndjson`;
    at("download").download = `${inbox.name}.ndjson`;
    describe(inbox);
    listTargets().catch(() => {});
    draw();
    setInterval(draw, 1000);
    const events = new EventSource(`${base}/events?after=${Math.max(0, inbox.last_seq - MAX_ENTRIES)}`);
    events.addEventListener("open", () => text(at("state"), "live"));
    events.addEventListener("error", () => {
      const refused = events.readyState === EventSource.CLOSED;   // the response was not an event stream
      text(at("state"), refused ? "access has expired; reload the page" : "the inspector does not answer; retrying");
    });
    events.addEventListener("request", (event) => {
      waiting.push(JSON.parse(event.data));
      if (waiting.length === 1) requestAnimationFrame(arrange);
    });
    events.addEventListener("inbox", (event) => { if (waiting.length) arrange(); describe(JSON.parse(event.data)); });
  }).catch((error) => { at("back").hidden = false; text(at("state"), error.message).className = "bad"; });
}

// An editor for the rules of a response script, with a line of controls for each; `set` is called with the script, and throws if it is invalid.
function rulesEditor(set) {
  const conditions = { always: "always", first: "the first", every: "every nth", percent: "percent" };
  const effects = { status: "answer", hang: "never answer", drip: "answer one byte per second", reset: "reset the connection", redirect: "redirect to the inbox", oversized: "answer 1 MB" };

  function choice(label, options, value) {
    const select = element("select");
    select.setAttribute("aria-label", label);
    for (const [name, title] of Object.entries(options)) {
      const option = element("option", title);
      option.value = name;
      select.append(option);
    }
    select.value = value;
    return select;
  }
  function figure(label, value) {
    const input = element("input");
    input.type = "number";
    input.step = "any";
    input.setAttribute("aria-label", label);
    input.value = value ?? "";
    return input;
  }
  function line(rule) {
    const node = element("div", undefined, "rule");
    const kind = ["first", "every", "percent"].find((name) => name in rule) ?? "always";
    const controls = {
      condition: choice("condition", conditions, kind), many: figure("how many", rule[kind]), seed: figure("seed", rule.seed ?? 1),
      effect: choice("response", effects, rule.effect ?? "status"), status: figure("status", rule.status ?? 200),
      delay: figure("delay in seconds", rule.delay ?? 0), wait: figure("Retry-After in seconds", rule.retry_after),
    };
    const remove = element("button", "Remove");
    remove.type = "button";
    remove.addEventListener("click", () => { node.remove(); showPython(); });
    const group = (...parts) => { const span = element("span"); span.append(...parts); return span; };
    const many = group(controls.many), seed = group("seed ", controls.seed);
    const answer = group(controls.status, " after ", controls.delay, " s, Retry-After ", controls.wait, " s");
    node.append(controls.condition, many, seed, controls.effect, answer, remove);
    node.controls = controls;
    const fit = () => {
      many.hidden = controls.condition.value === "always";
      seed.hidden = controls.condition.value !== "percent";
      answer.hidden = controls.effect.value !== "status";
      showPython();
    };
    node.addEventListener("input", fit);
    node.fit = fit;
    return node;
  }
  function script() {
    return [...at("rules").children].map(({ controls }) => {
      const rule = {}, value = (control) => control.value === "" ? null : Number(control.value);
      if (controls.condition.value !== "always") rule[controls.condition.value] = value(controls.many);
      if (controls.condition.value === "percent") rule.seed = value(controls.seed);
      if (controls.effect.value !== "status") return { ...rule, effect: controls.effect.value };
      rule.status = value(controls.status);
      if (value(controls.delay)) rule.delay = value(controls.delay);
      if (controls.wait.value !== "") rule.retry_after = value(controls.wait);
      return rule;
    });
  }
  function showPython() {
    const rules = script();
    text(at("python"), rules.length ? `inbox.respond(${JSON.stringify(rules)})` : "inbox.respond()");
  }
  function show(rules) {
    at("rules").replaceChildren(...rules.map(line));
    for (const node of at("rules").children) node.fit();
    showPython();
  }
  async function apply(rules) {
    text(at("ruleProblem"), "");
    try { await set(rules); text(at("state"), "answers set"); }
    catch (error) { text(at("ruleProblem"), error.message); }
  }
  at("addRule").addEventListener("click", () => {
    const node = line({ first: 1, status: 500 });
    at("rules").append(node);
    node.fit();
  });
  at("setRules").addEventListener("click", () => apply(script()));
  at("ready").addEventListener("click", (event) => {
    const rules = event.target.dataset.rules;
    if (rules) { show(JSON.parse(rules)); apply(JSON.parse(rules)); }
  });
  return { show };
}

// A command for a POSIX shell that sends the request again; everything from the request is quoted.
function curlOf(request, origin) {
  const quoted = (value) => `'${value.replaceAll("'", "'\\''")}'`;
  const connectionHeaders = new Set(["host", "content-length", "connection", "transfer-encoding", "expect", "keep-alive", "upgrade"]);
  const parts = ["curl", "--globoff", "--path-as-is", "-X", quoted(request.method)];
  const sent = request.headers.filter(([name]) => !connectionHeaders.has(name));
  for (const [name, value] of sent) parts.push("-H", quoted(value ? `${name}: ${value}` : `${name};`));
  for (const name of ["Accept", "User-Agent", "Content-Type"]) {
    if (!sent.some(([other]) => other === name.toLowerCase())) parts.push("-H", quoted(`${name}:`));   // curl would add its own header
  }
  parts.push(quoted(`${origin}${request.path}${request.query ? `?${request.query}` : ""}`));
  if (!request.size) return parts.join(" ");
  if (request.body_encoding === "utf-8" && request.size < 65536 && !request.body.includes("\0")) return [...parts, "--data-raw", quoted(request.body)].join(" ");
  if (request.size > FULL_BODY_BYTES) throw new Error("The body is too large for a command line. Use Download all.");
  const bytes = request.body_encoding === "base64" ? request.body : btoa(String.fromCharCode(...new TextEncoder().encode(request.body)));
  return `base64 -d <<'END' | ${[...parts, "--data-binary", "@-"].join(" ")}\n${bytes.replace(/.{76}/g, "$&\n")}\nEND`;
}

function named(judgement) {
  const names = { foreign: "another user's row", duplicate_of: "duplicate", late: "late", out_of_order_with: "out of order", body: "body mismatch", unread: "not judged", secret: "secret" };
  return `${names[judgement.kind] ?? judgement.kind}${judgement.seq === undefined ? "" : ` of #${judgement.seq}`}`.replace("out of order of", "out of order with");
}

function answerOf(request) {
  if (request.response_status === null) return request.note ? ["none", "odd"] : ["waiting", "odd"];
  return [String(request.response_status), request.response_status < 300 ? "good" : "bad"];
}

// Describe a request in one line: the rows of its Sequin messages, or its method and the beginning of its body.
function summary(request) {
  const plain = `${request.method} ${request.body_encoding === "base64" ? "(binary)" : request.size ? request.body.slice(0, 120) : "(empty body)"}`;
  if (request.truncated || !request.body.startsWith("{")) return plain;
  let body;
  try { body = JSON.parse(request.body); } catch { return plain; }
  const messages = Array.isArray(body.data) ? body.data : [body];
  if (!messages.length || !messages.every((message) => message?.metadata && message.action)) return plain;
  const first = messages[0];
  const user = first.record?.user_id === undefined ? "" : ` of user ${first.record.user_id}`;
  const row = `row ${[first.metadata.record_pks].flat().join(",")}`;
  return `${first.action} ${row}${user}${messages.length > 1 ? ` and ${messages.length - 1} more` : ""} in ${first.metadata.table_name}`;
}

// Indent JSON without changing its tokens, or return null if it is not valid JSON. JSON.stringify would round long numbers and reorder keys.
function indented(body) {
  try { JSON.parse(body); } catch { return null; }
  const parts = [];
  let depth = 0;
  for (const [token] of body.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g)) {
    if (token === "}" || token === "]") {
      depth--;
      if (parts.at(-1).trim() === "" ) { parts.pop(); parts.push(token); } else parts.push("\n" + "  ".repeat(depth), token);
    } else if (token === "{" || token === "[") { depth++; parts.push(token, "\n" + "  ".repeat(depth)); }
    else if (token === ",") parts.push(",\n" + "  ".repeat(depth));
    else parts.push(token === ":" ? ": " : token);
  }
  return parts.join("");
}

function hexadecimal(bytes) {
  const lines = [];
  for (let start = 0; start < Math.min(bytes.length, PREVIEW_BYTES); start += 16) {
    const part = bytes.slice(start, start + 16);
    const hex = [...part].map((byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join(" ");
    lines.push(`${start.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${part.replace(/[^\x20-\x7e]/g, ".")}`);
  }
  return lines.join("\n");
}

const inboxPath = location.pathname.match(/^\/inboxes\/([^/]+)$/);
if (inboxPath) showInbox(decodeURIComponent(inboxPath[1])); else showInboxes();
