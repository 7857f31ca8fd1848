// The selected request. `base` is the API's URL of the inbox, and `id` its id; `list` is a requestList.

function requestDetail(base, id, list) {
  let selected = null;         // seq
  let wantsRaw = false;
  let body = null;             // { tree, raw } of the shown request: a JSON tree or null, and the raw view's text

  async function show(request) {
    selected = request?.seq ?? null;
    at("panes").dataset.view = request ? "request" : "list";
    at("hint").hidden = request !== null;
    if (!request) { at("shown").hidden = true; return; }
    const limit = request.size > FULL_BODY_BYTES ? PREVIEW_BYTES : FULL_BODY_BYTES;
    let shown;
    try { shown = (await call("GET", `${base}/requests?after=${request.seq - 1}&limit=1&body_limit=${limit}`)).requests[0]; }
    catch (error) { say(error.message, true); return; }
    if (selected !== request.seq || !shown || shown.seq !== request.seq) return;
    at("target").replaceChildren(element("span", shown.method, "method"), ` ${shown.path}${shown.query ? `?${shown.query}` : ""}`);
    text(at("when"), `#${shown.seq}, ${zoned(new Date(shown.received_at))}, ${number(shown.size, "byte")}, ${answered(shown)}`).title = shown.received_at;
    text(at("note"), shown.note).hidden = !shown.note;
    text(at("verdict"), `Secret ${shown.secret}.`).className = `badge ${secretKind(shown)}`;
    text(at("reason"), shown.secret_reason);
    showJudgements(shown);
    showBody(shown);
    text(at("headerCount"), `${shown.headers.length}, in order`);
    at("headers").tBodies[0].replaceChildren(...shown.headers.map(([name, value]) => {
      const line = element("tr", undefined, "code");
      line.append(element("td", name), element("td", value));
      return line;
    }));
    at("shown").hidden = false;
  }

  function showJudgements(shown) {
    at("judgements").replaceChildren(...shown.judgements.filter((judgement) => judgement.kind !== "secret").map(({ kind, text: words, seq }) => {
      const line = element("li", words, kind === "foreign" ? "bad" : "warn");
      if (seq !== undefined && list().has(seq)) line.append(" ", button(`Show #${seq}`, () => list().select(seq)));
      return line;
    }));
  }

  function showBody(shown) {
    const compressed = shown.decoded !== null;
    const [content, encoding, cut] = compressed ? [shown.decoded, shown.decoded_encoding, shown.decoded_truncated] : [shown.body, shown.body_encoding, shown.truncated];
    const binary = encoding === "base64";
    body = { tree: binary || cut ? null : jsonTree(content), raw: binary ? hexadecimal(atob(content)) : content };
    const title = compressed ? "Body, decompressed" : shown.size ? "Body" : "Body: empty";
    text(at("bodyTitle"), binary ? "Body, hexadecimal (not UTF-8)" : title);
    text(at("cut"), `The body has ${number(shown.size, "byte")}; only the first ${PREVIEW_BYTES.toLocaleString("en")} are shown.`).hidden = !shown.truncated;
    at("packedPart").hidden = !compressed;
    text(at("packed"), compressed ? hexadecimal(shown.body_encoding === "base64" ? atob(shown.body) : shown.body) : "");
    at("copyBody").hidden = !shown.size;
    at("raw").dataset.empty = String(!shown.size);
    showView();
  }
  // Build only the view that is shown, because a large body takes a while to lay out.
  function showView() {
    const isRaw = wantsRaw || !body?.tree;
    at("views").hidden = !body?.tree;
    at("viewJson").setAttribute("aria-pressed", String(!isRaw));
    at("viewRaw").setAttribute("aria-pressed", String(isRaw));
    at("json").hidden = isRaw;
    at("raw").hidden = !isRaw || at("raw").dataset.empty === "true";
    at("json").replaceChildren(...(isRaw ? [] : [jsonView(body.tree)]));
    text(at("raw"), isRaw ? body?.raw ?? "" : "");
  }
  function setView(raw) { wantsRaw = raw; showView(); }
  at("viewJson").addEventListener("click", () => setView(false));
  at("viewRaw").addEventListener("click", () => setView(true));
  at("copyBody").addEventListener("click", () => attempt(() => copy(body.raw, "Body")));
  at("backToList").addEventListener("click", () => { at("panes").dataset.view = "list"; at("list").focus(); });

  async function copyCurl() {
    const request = (await call("GET", `${base}/requests?after=${selected - 1}&limit=1`)).requests[0];
    await copy(curlOf(request, new URL(at("url").textContent).origin), "cURL command");
  }
  at("curl").addEventListener("click", () => attempt(copyCurl));
  at("again").addEventListener("click", () => attempt(async () => {
    const target = at("whereto"), seq = selected;
    const result = await call("POST", `${base}/requests/${seq}/send`, { inbox: target.value });
    const outcome = result.status === null ? "it did not answer" : `it answered ${result.status}`;
    say(`#${seq} sent to ${target.selectedOptions[0].textContent}: ${outcome}`);
  }));
  async function listTargets() {
    const inboxes = (await call("GET", "/api/inboxes")).inboxes, chosen = at("whereto").value || id;
    at("whereto").replaceChildren(...inboxes.map((inbox) => {
      const option = element("option", inbox.id === id ? "this inbox" : inbox.name);
      option.value = inbox.id;
      option.selected = inbox.id === chosen;
      return option;
    }));
  }
  at("whereto").addEventListener("focus", () => attempt(listTargets));
  attempt(listTargets);

  addEventListener("keydown", (event) => {
    if (isTyping(event) || selected === null) return;
    if (event.key === "r") setView(!wantsRaw);
    if (event.key === "c") attempt(copyCurl);
  });
  return { show };
}
