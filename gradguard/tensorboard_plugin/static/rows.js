// The rows of the strip: the whole model, the layers, and the tensors.
import {h} from './dom.js';
import {clickedStep, track} from './timeline.js';
import {LEVELS, MARKS, label, level} from './words.js';

// The line of the screen: the gravest verdict of each check, hatched where no screen covered any tensor.
export function screenRow({steps, screen, tensors}, scale) {
  const changes = onlyChanges(steps.map((step, i) => [step, screen.verdict[i]]));
  const gaps = steps.flatMap((step, i) => (screen.screened[i] ? [] : [[step, steps[i + 1] ?? null]]));
  const last = changes.at(-1)[1];
  const covered = `${screen.screened.at(-1) || 'none'} of ${tensors.length} tensors screened at the last check`;
  return h(
    'div',
    {class: 'screen', role: 'img', 'aria-label': `The whole model: ${label(last)}; ${covered}`},
    rowName(level(last), 'model', `the whole model: ${covered}`),
    track(changes, joined(gaps), scale),
  );
}

function onlyChanges(verdicts) {
  return verdicts.filter(([, verdict], i) => i === 0 || verdict !== verdicts[i - 1][1]);
}

// Parts that follow each other as one.
function joined(parts) {
  const whole = [];
  for (const [from, to] of parts) {
    if (whole.length && whole.at(-1)[1] === from) whole.at(-1)[1] = to;
    else whole.push([from, to]);
  }
  return whole;
}

// In a layer, the name is without that of the layer.
export function tensorRow(tensor, layer, {steps}, scale, {isChosen, isReached}, choose) {
  const [since, current] = tensor.changes.at(-1);
  const staleSince = tensor.stale.findLast(([, to]) => to == null)?.[0];
  return h(
    'div',
    {
      class: 'row',
      role: 'option',
      tabindex: isReached ? 0 : -1,
      'aria-selected': String(isChosen),
      'aria-label': `${tensor.name}: ${label(current)} since step ${since}${staleSince == null ? '' : `, not checked from step ${staleSince} on`}`,
      'data-key': isChosen ? 'row' : null,
      onclick: (event) => choose({tensor: tensor.name, step: clickedStep(event, steps, scale)}),
    },
    rowName(
      shownLevel(tensor),
      tensor.name.startsWith(layer) ? tensor.name.slice(layer.length) : tensor.name,
      tensor.name,
    ),
    track(tensor.changes, tensor.stale, scale),
  );
}

// The heading of a layer, which opens and closes it; its bars are those of its gravest tensor at each step.
export function layerRow({layer, tensors}, scale, isOpen, toggle) {
  const worst = gravest(tensors.map(shownLevel));
  return h(
    'button',
    {class: 'layer', 'aria-expanded': String(isOpen), 'data-key': `layer ${layer}`, onclick: toggle},
    rowName(
      worst,
      `${isOpen ? '▾' : '▸'} ${/^\d+$/.test(layer) ? `layer ${layer}` : layer} (${tensors.length})`,
      layer,
    ),
    track(gravestChanges(tensors), [], scale),
  );
}

function rowName(kind, text, title = text) {
  return h('span', {class: 'name', title}, h('b', {class: `mark ${kind}`}, MARKS[kind]), h('span', {}, text));
}

// A tensor that was right and that nobody looked at since is in doubt.
function shownLevel({changes, stale}) {
  const last = level(changes.at(-1)[1]);
  return last !== 'bug' && stale.some(([, to]) => to == null) ? 'unclear' : last;
}

function gravest(levels) {
  return LEVELS.findLast((one) => levels.includes(one));
}

function gravestChanges(tensors) {
  const steps = [...new Set(tensors.flatMap(({changes}) => changes.map(([step]) => step)))].sort((a, b) => a - b);
  const verdictsAt = (step) => tensors.flatMap(({changes}) => changes.findLast(([from]) => from <= step)?.[1] ?? []);
  const worst = steps.map((step) => {
    const verdicts = verdictsAt(step);
    return [step, verdicts.find((verdict) => level(verdict) === gravest(verdicts.map(level)))];
  });
  return onlyChanges(worst);
}
