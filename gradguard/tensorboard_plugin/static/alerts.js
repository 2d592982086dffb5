// The alerts, newest first, each with its advice.
import {card, h} from './dom.js';
import {level, listed, mark} from './words.js';

// Levels of Python's logging: INFO, WARNING, ERROR. A recovery is a warning in the log, so that it is shown there.
const LEVELS = {20: 'recovered', 30: 'warning', 40: 'bug'};
const RIGHT = ['ok', 'explained'];

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

function likewise(others) {
  return others.length ? `, likewise ${listed(others)}:` : '';
}

// The finding is the message without step, tensor and advice, which stand beside it; logs of older versions have none.
function item(alert, i, {steps}, choose) {
  const isLinked = steps.includes(alert.step) && alert.tensor;
  const onclick = () => choose({tensor: alert.tensor, step: alert.step});
  const kind = level(alert.verdict);
  return h(
    'li',
    {class: alert.level < 40 && RIGHT.includes(kind) ? 'recovered' : (LEVELS[alert.level] ?? 'warning')},
    h('b', {class: `mark ${kind}`, 'aria-hidden': 'true'}, mark(alert.verdict)),
    h(
      'div',
      {},
      h(
        'p',
        {},
        isLinked
          ? h('button', {class: 'link', 'data-key': `alert ${i}`, onclick}, `step ${alert.step}, ${alert.tensor}`)
          : alert.tensor || !alert.finding
            ? ''
            : `step ${alert.step}`,
        likewise(alert.others),
        ' ',
        alert.finding || alert.message,
      ),
      alert.advice ? h('p', {class: 'todo'}, `To do: ${alert.advice}`) : null,
    ),
  );
}
