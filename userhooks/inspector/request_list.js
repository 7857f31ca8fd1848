// The list of requests, newest first, with its filter and its keys. `onSelect` is called with a request, or with null.

function requestList(onSelect) {
  const list = at("list");
  const entries = new Map();   // seq -> { request without its body, node, searchText }
  let selected = null;         // seq
  let total = 0;               // requests in the inbox
  let wanted = "";             // the filter, in lower case

  function forget(seq, entry) {
    const part = entry.node.parentElement;
    entry.node.remove();
    if (part.firstElementChild) fit(part); else part.remove();
    entries.delete(seq);
    if (selected === seq) { selected = null; onSelect(null); }
  }

  // Set the height of a part, which the browser does not compute while the part is out of sight. All visible entries have the same height.
  function fit(part) {
    let shown = 0;
    for (const node of part.children) if (!node.hidden) shown++;
    part.style.containIntrinsicBlockSize = `${ENTRY_REM * shown}rem`;
  }

  function prepend(node) {     // the newest is first here, and last in the map
    let part = list.firstElementChild;
    if (!part || part.childElementCount >= PART_ENTRIES) { part = element("div", undefined, "part"); part.setAttribute("role", "none"); list.prepend(part); }
    part.prepend(node);
    return part;
  }

  function add(requests) {
    const changed = new Set();
    for (const request of requests) {
      const known = entries.get(request.seq);
      const node = row(request);
      const entry = { request: { ...request, body: null, decoded: null }, node, searchText: searchText(request) };
      node.hidden = !entry.searchText.includes(wanted);
      entries.set(request.seq, entry);
      if (known) { known.node.replaceWith(node); changed.add(node.parentElement); if (selected === request.seq) select(request.seq, false); }
      else changed.add(prepend(node));
    }
    changed.forEach(fit);
    while (entries.size > MAX_ENTRIES) { const [seq, entry] = entries.entries().next().value; forget(seq, entry); }
    count();
    if (requests.length && selected === null) onSelect(null);
  }

  // Follow the inbox's counts: forget what was cleared or dropped.
  function trim(firstSeq, inboxCount) {
    total = inboxCount;
    for (const [seq, entry] of entries) { if (seq >= firstSeq) break; forget(seq, entry); }
    count();
  }

  function reset() {
    list.replaceChildren();
    entries.clear();
    if (selected !== null) { selected = null; onSelect(null); }
  }

  function searchText(request) {
    const headers = request.headers.map(([name, value]) => `${name}: ${value}`).join("\n");
    const body = request.body_encoding === "base64" ? request.decoded ?? "" : request.body;
    const labels = [...request.judgements.map(named), `secret ${request.secret}`, request.response, request.note, summary(request)].join("\n");
    const target = `${request.method} ${request.path}${request.query ? `?${request.query}` : ""}`;
    return `${target}\n${answerOf(request)[0]}\n${labels}\n${headers}\n${body.slice(0, SEARCHED_CHARACTERS)}`.toLowerCase();
  }
  function count() {
    const inList = entries.size;
    at("older").hidden = total <= inList || inList < MAX_ENTRIES;
    text(at("older"), `These are the newest ${inList.toLocaleString("en")} of ${number(total, "request")}. “Download all” has the rest.`);
    if (!wanted) { text(at("matches"), number(total, "request")); return; }
    let shown = 0;
    for (const entry of entries.values()) if (!entry.node.hidden) shown++;
    text(at("matches"), `${shown.toLocaleString("en")} of ${total > inList ? "the newest " : ""}${inList.toLocaleString("en")}`);
  }
  at("filter").title = at("filterHelp").textContent;
  at("filter").addEventListener("input", () => {
    wanted = at("filter").value.toLowerCase();
    for (const entry of entries.values()) entry.node.hidden = !entry.searchText.includes(wanted);
    [...list.children].forEach(fit);
    count();
  });

  function row(request) {
    const node = element("div", undefined, "entry");
    node.id = `request-${request.seq}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(selected === request.seq));
    node.dataset.seq = request.seq;
    const [answer, kind] = answerOf(request), path = element("span", pathOf(request), "path");
    path.title = path.textContent;
    node.append(
      element("span", request.method, "method"), path, element("span", answer, `badge ${kind}`),
      element("span", `#${request.seq}`), summaryCell(request), element("span", clock(new Date(request.received_at))),
    );
    return node;
  }
  function summaryCell(request) {
    const cell = element("span");
    if (secretKind(request) === "bad") cell.append(element("span", `secret ${request.secret}`, "badge bad"), " ");
    for (const judgement of request.judgements) {
      if (judgement.kind !== "secret") cell.append(element("span", named(judgement), judgement.kind === "foreign" ? "badge bad" : "badge warn"), " ");
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
    if (entry.node.hidden) { entry.node.hidden = false; fit(entry.node.parentElement); }
    entry.node.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", entry.node.id);
    if (scroll) entry.node.scrollIntoView({ block: "nearest" });
    onSelect(entry.request);
  }

  list.addEventListener("click", (event) => {
    const node = event.target.closest(".entry");
    if (node) select(Number(node.dataset.seq), false);
  });
  function move(key) {
    const current = entries.get(selected)?.node;
    const page = Math.max(1, Math.floor(at("side").clientHeight / (list.querySelector(".entry")?.offsetHeight || 56)) - 1);
    const older = (node) => node.nextElementSibling ?? node.parentElement.nextElementSibling?.firstElementChild;
    const newer = (node) => node.previousElementSibling ?? node.parentElement.previousElementSibling?.lastElementChild;
    const visible = (node, direction) => { while (node?.hidden) node = direction(node); return node; };
    const step = (node, direction, count) => {
      for (let next; node && count > 0 && (next = visible(direction(node), direction)); count--) node = next;
      return node;
    };
    const first = visible(list.firstElementChild?.firstElementChild, older);
    const next = {
      ArrowDown: () => current ? step(current, older, 1) : first,
      ArrowUp: () => current ? step(current, newer, 1) : first,
      PageDown: () => step(current ?? first, older, page),
      PageUp: () => step(current ?? first, newer, page),
      Home: () => first,
      End: () => visible(list.lastElementChild?.lastElementChild, newer),
    }[key]();
    if (next) select(Number(next.dataset.seq));
  }
  addEventListener("keydown", (event) => {
    if (event.target === at("filter") && (event.key === "Escape" || event.key === "Enter")) {
      if (event.key === "Escape") { at("filter").value = ""; at("filter").dispatchEvent(new Event("input")); }
      list.focus();
      return;
    }
    if (isTyping(event)) return;
    const isOnList = event.target === list || event.target === document.body;
    const key = { j: "ArrowDown", k: "ArrowUp" }[event.key] ?? (isOnList ? event.key : "");
    if (event.key === "/") at("filter").focus();
    else if (["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"].includes(key)) move(key);
    else return;
    event.preventDefault();
  });

  return { add, trim, reset, select, has: (seq) => entries.has(seq), isEmpty: () => !entries.size };
}
