// Show the page that the address asks for.

startBar();
const inboxPath = location.pathname.match(/^\/inboxes\/([^/]+)$/);
if (inboxPath) showInbox(decodeURIComponent(inboxPath[1])); else showInboxes();
