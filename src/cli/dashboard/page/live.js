// Fetches the page again every two seconds and changes only what differs, so that the focus, an open list and a screen
// reader's place stay where they are. Without it the page is loaded again by <noscript>'s refresh.
'use strict';
const sync = (old, now) => {
  if (old.nodeName !== now.nodeName || old.id !== now.id) return old.replaceWith(now.cloneNode(true));
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== now.data) old.data = now.data; return; }
  if (old.nodeType !== Node.ELEMENT_NODE || old.isEqualNode(now)) return;
  for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (name !== 'open' && !now.hasAttribute(name)) old.removeAttribute(name);
  const [had, has] = [[...old.childNodes], [...now.childNodes]];
  has.forEach((child, n) => had[n] ? sync(had[n], child) : old.append(child.cloneNode(true)));
  had.slice(has.length).forEach((child) => child.remove());
};
const link = document.getElementById('link');
const tell = (text) => {
  if (link.textContent !== text) link.textContent = text;
  document.documentElement.classList.toggle('stale', text !== '');
};
let seen = Date.now();
setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(5000) });
    // A failed message that was retried is not here any more, and its page says so.
    if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
    // The style is here already, and the new one's nonce is not this page's: the browser would complain of it.
    const text = (await answer.text()).replace(/<style[^]*<\/style>/, '');
    const page = new DOMParser().parseFromString(text, 'text/html');
    for (const part of ['header', 'main']) sync(document.querySelector(part), page.querySelector(part));
    document.title = page.title;
    seen = Date.now();
    tell('');
  } catch {
    if (Date.now() - seen > 6000) tell('The dashboard does not answer; this is how things stood at ' + new Date(seen).toLocaleTimeString('en-GB') + '.');
  }
}, 2000);
