// The list of inboxes, which is brought up to date every two seconds.

function showInboxes() {
  at("inboxes").hidden = false;
  const rows = new Map();
  let isReachable = true;
  function problem(message) { text(at("problem"), message).hidden = !message; }
  async function refresh() {
    let inboxes;
    try { inboxes = (await call("GET", "/api/inboxes")).inboxes; } catch (error) { isReachable = false; problem(error.message); return; }
    if (!isReachable) problem("");
    isReachable = true;
    at("none").hidden = inboxes.length > 0;
    at("tableCard").hidden = !inboxes.length;
    for (const inbox of inboxes) {
      let row = rows.get(inbox.id);
      if (!row) {
        row = element("tr");
        const link = element("a", inbox.name), address = element("div", undefined, "sendTo");
        link.href = `/inboxes/${encodeURIComponent(inbox.id)}`;
        address.append(element("code", inbox.url), button("Copy", () => attempt(() => copy(inbox.url, "URL"))));
        row.append(element("td"), element("td", "", "number"), element("td", "", "number"), element("td"));
        row.cells[0].append(link);
        row.cells[3].append(address);
        rows.set(inbox.id, row);
        at("rows").append(row);
      }
      text(row.cells[1], inbox.count.toLocaleString("en"));
      text(row.cells[2], inbox.dropped.toLocaleString("en"));
    }
  }
  at("create").addEventListener("submit", async (event) => {
    event.preventDefault();
    problem("");
    try {
      const inbox = await call("POST", "/api/inboxes", at("name").value ? { name: at("name").value } : {});
      location.assign(`/inboxes/${encodeURIComponent(inbox.id)}`);
    } catch (error) { problem(error.message); }
  });
  refresh();
  setInterval(() => { if (!document.hidden) refresh(); }, 2000);
}
