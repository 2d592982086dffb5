// The last sweep over step sizes: the discrepancy over the floor of noise and truncation, with the best step.
import {axis, colours, figure, guides, logarithmic, placeholder, withZeros} from './charts.js';
import {h, table} from './dom.js';
import {number} from './words.js';

export function sweep(plotly, record, tensor) {
  const title = 'Discrepancy at each step size: the last sweep';
  if (!Array.isArray(record?.steps)) {
    return placeholder(
      title,
      'This run has no sweep: gradguard sweep MODULE:FACTORY --logdir RUN, or writer.write_sweep(sweep(...)), adds one.',
    );
  }
  const ofTensor = record.tensors?.[tensor];
  const curve = {...record, ...ofTensor};
  const fullTitle = ofTensor ? `${title}, ${tensor}` : title;
  const element = figure(plotly, fullTitle, chart(record, curve), numberTable(record, curve));
  if (!ofTensor) element.append(h('p', {}, record.explanation ?? ''));
  return element;
}

function chart(record, curve) {
  const {ink, bug, explained, ok, muted} = colours();
  const zeros = withZeros(curve.discrepancy ?? [], curve.floor ?? []);
  const line = (key, name, style, more = {}) => ({
    type: 'scatter',
    mode: 'lines',
    name,
    x: record.steps,
    y: key === 'discrepancy' ? zeros.values : (curve[key] ?? []).map((value) => (value > 0 ? value : null)),
    line: style,
    text: (curve[key] ?? []).map((value) => number(value, 2)),
    hovertemplate: `h = %{x:.2g}, ${name} %{text}<extra></extra>`,
    ...more,
  });
  const values = [...zeros.range, 1];
  const best = record.steps[curve.best];
  return {
    traces: [
      line('noise', 'noise', {color: explained, dash: 'dot', width: 2}),
      line('truncation', 'truncation', {color: ok, dash: 'dash', width: 2}),
      line('floor', 'floor', {color: bug, width: 4}),
      line('discrepancy', 'd', {color: ink, width: 1.4}, {mode: 'lines+markers', marker: {size: 6}}),
    ],
    layout: {
      xaxis: axis('step size h', {type: 'log', dtick: 1}),
      yaxis: axis('d', {...logarithmic(values), range: [Math.log10(Math.min(...values)) - 1, 0.5]}),
      ...(best ? guides([{at: best, words: `best, ${number(best)}`, colour: muted, log: true}], 'v') : {}),
    },
  };
}

function numberTable(record, curve) {
  const keys = ['discrepancy', 'floor', 'noise', 'truncation'];
  const rows = record.steps.map((step, i) => [
    i === curve.best ? `${number(step)}, best` : number(step),
    ...keys.map((key) => number(curve[key]?.[i], 2)),
  ]);
  return table(['step h', 'd', 'floor', 'noise', 'truncation'], rows);
}
