// The details of the chosen tensor at the chosen step.
import {blocks} from './blocks.js';
import {earlierStep, explanation, lastLook, when, withDate} from './dates.js';
import {h} from './dom.js';
import {discrepancy, ratio, signs} from './overtime.js';
import {pairs} from './pairs.js';
import {sweep} from './sweep.js';
import {label, level, mark, number, ratio as ratioText} from './words.js';

export function detail(overview, chosen, tensor, plotly, choose) {
  const {report} = tensor;
  const seriesArguments = [tensor, overview.steps, chosen.step, choose];
  return h(
    'section',
    {class: 'card detail', 'aria-label': 'The chosen tensor'},
    heading(tensor, overview.steps, chosen, report, choose),
    tensor.error ? h('p', {class: 'problem'}, tensor.error) : null,
    report ? facts(report, chosen.step) : null,
    h(
      'div',
      {class: 'figures'},
      report ? pairs(plotly, {name: chosen.tensor, ...report}, chosen.step) : null,
      tensor.series ? [ratio(plotly, ...seriesArguments), discrepancy(plotly, ...seriesArguments)] : null,
      report ? blocks(plotly, report, chosen.step) : null,
      tensor.series ? signs(plotly, ...seriesArguments) : null,
      sweep(plotly, overview.sweep, chosen.tensor),
    ),
  );
}

function heading(tensor, steps, chosen, report, choose) {
  const at = steps.indexOf(chosen.step);
  const stepButton = (by, words, sign) =>
    h(
      'button',
      {
        'data-key': words,
        'aria-label': words,
        title: words,
        disabled: !(at + by in steps),
        onclick: () => choose({step: steps[at + by]}),
      },
      sign,
    );
  return h(
    'div',
    {class: 'heading'},
    h(
      'h2',
      {},
      h('span', {class: 'tensor'}, chosen.tensor),
      ` (${tensor.shape?.join(' × ') || 'scalar'}) at step ${chosen.step.toLocaleString('en')}`,
    ),
    report ? badge(report, chosen.step) : null,
    h('span', {class: 'moves'}, stepButton(-1, 'The check before', '‹'), stepButton(1, 'The next check', '›')),
  );
}

function badge(report, step) {
  const last = lastLook(report, step);
  const words = `${mark(report.verdict)} ${label(report.verdict)}`;
  return last === step
    ? h('b', {class: `badge ${level(report.verdict)}`}, words)
    : h('span', {class: 'badge earlier'}, `${words}, at step ${last.toLocaleString('en')}`);
}

function facts(report, step) {
  const isEarlier = earlierStep(report, step) != null;
  const isUnseen = lastLook(report, step) !== step;
  const values = [
    ['measured', when(report.measured_at, step)],
    ['screened', when(report.screened_at, step)],
    ['n / g', ratioText(report.ratio, report.ratio_error), isUnseen],
    [
      'd',
      withDate(`${number(report.discrepancy, 2)} over a floor of ${number(report.floor, 2)}`, report, step),
      isEarlier,
    ],
    ['entries', `${report.sampled ?? '–'}, ${report.resolvable ?? '–'} with a clear sign`, isEarlier],
    ['step size', number(report.step_size, 2), isEarlier],
    [
      'smallest detectable error',
      report.smallest_visible == null ? '–' : `${number(100 * report.smallest_visible, 2)} %`,
      isUnseen,
    ],
    ['check', report.deep ? 'deep' : 'routine', isEarlier],
  ];
  return [
    h(
      'p',
      {class: 'says'},
      explanation(report, step),
      report.cause ? h('span', {class: 'cause'}, ` → ${report.cause}`) : null,
    ),
    h(
      'dl',
      {class: 'facts'},
      values.map(([name, value, isEarlier]) =>
        h('div', {}, h('dt', {}, name), h('dd', {class: isEarlier ? 'earlier' : null}, value)),
      ),
    ),
  ];
}
