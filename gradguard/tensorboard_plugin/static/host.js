// The TensorBoard page around the frame: its theme and its reload button.

export function follow(refresh) {
  followTheme();
  onMessage('experimental.DataReloaded', refresh);
}

function followTheme() {
  const body = window.parent.document.body;
  const applyTheme = () => {
    document.documentElement.dataset.theme = body.classList.contains('dark-mode') ? 'dark' : 'light';
    document.dispatchEvent(new Event('themechange'));
  };
  new MutationObserver(applyTheme).observe(body, {attributeFilter: ['class']});
  applyTheme();
}

// The part of the message protocol of TensorBoard's plugin library that is needed here.
function onMessage(type, action) {
  const {port1, port2} = new MessageChannel();
  port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === type) action();
    port1.postMessage(JSON.stringify({type: message.type, id: message.id, payload: null, error: null, isReply: true}));
  };
  window.parent.postMessage('experimental.bootstrap', '*', [port2]);
}
