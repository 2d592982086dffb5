// The alerts, newest first, each with its advice.
import {card, h} from './dom.js';
import {level, mark} from './words.js';

// Levels of Python's logging: INFO, WARNING, ERROR.
const LEVELS = {20: 'recovered', 30: 'warning', 40: 'bug'};

export function alerts(overview, choose) {
  if (!overview.alerts.length) {
    return card('Alerts', h('p', {class: 'muted'}, 'None: nothing crossed a threshold, and no bug was confirmed.'));
  }
  return card(
    'Alerts',
    h(
      'ol',
      {class: 'alerts'},
      overview.alerts.map((alert, i) => item(alert, i, overview, choose)),
    ),
  );
}

function item(alert, i, {steps}, choose) {
  const isLinked = steps.includes(alert.step) && alert.tensor;
  const onclick = () => choose({tensor: alert.tensor, step: alert.step});
  const kind = level(alert.verdict);
  return h(
    'li',
    {class: LEVELS[alert.level] ?? 'warning'},
    h('b', {class: `mark ${kind}`, 'aria-hidden': 'true'}, mark(alert.verdict)),
    h(
      'div',
      {},
      h(
        'p',
        {},
        isLinked
          ? h('button', {class: 'link', 'data-key': `alert ${i}`, onclick}, `step ${alert.step}, ${alert.tensor}`)
          : '',
        ' ',
        messageText(alert),
      ),
      alert.advice ? h('p', {class: 'todo'}, `To do: ${alert.advice}`) : null,
    ),
  );
}

// The message without its step and tensor at the start and its advice at the end, which the page shows beside it.
function messageText({step, tensor, message, advice}) {
  const lead = `step ${step} ${tensor}: `;
  const rest = message.startsWith(lead) ? message.slice(lead.length) : message;
  return advice && rest.endsWith(advice) ? rest.slice(0, -advice.length).replace(/[; ]+$/, '') : rest;
}
