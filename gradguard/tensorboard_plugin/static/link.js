// The address of the page holds what is chosen, so that it reopens the same view.

const TAB = 'gradguard';
const PREFIX = `p.${TAB}.`; // by which TensorBoard leaves the parameters to its plugin

// The frame of the tab has no address that a person sees; a page of its own is its own parent.
const outer = window.parent;

export function readLink() {
  const pairs = outer.location.hash
    .slice(1)
    .split('&')
    .filter((part) => part.startsWith(PREFIX))
    .map((part) => part.slice(PREFIX.length).split('='));
  return Object.fromEntries(pairs.map(([key, value = '']) => [key, decoded(value)]));
}

// Writes what is chosen into the address, unless TensorBoard shows another tab, and returns the address.
export function writeLink(values) {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== '' && value !== false);
  const parts = given.map(([key, value]) => `${PREFIX}${key}=${encodeURIComponent(value)}`);
  // Not relative to the frame, whose files TensorBoard takes from another folder.
  const address = new URL(`#${[TAB, ...parts].join('&')}`, outer.location.href).href;
  const isShown = outer === window || outer.location.hash.slice(1).split('&')[0] === TAB;
  if (isShown && outer.location.href !== address) outer.history.replaceState(outer.history.state, '', address);
  return address;
}

export function onLink(action) {
  outer.addEventListener('hashchange', () => {
    const link = readLink();
    if (Object.keys(link).length) action(link);
  });
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // no address of this page
  }
}
