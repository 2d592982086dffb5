// The top of the page: what is wrong, where, since when, and what to do about it.
import {h} from './dom.js';
import {STATE_MARKS, listed} from './words.js';

const MAX_PARTS = 4; // of the tensors with one cause, by when they became wrong

export function verdict(overview) {
  const {story} = overview;
  return h(
    'section',
    {class: `card verdict ${story.state}`, 'aria-label': 'Verdict of the run'},
    h('span', {class: 'icon', 'aria-hidden': 'true'}, STATE_MARKS[story.state] ?? '–'),
    h(
      'div',
      {},
      h('h1', {id: 'headline'}, story.headline),
      story.causes.map((findings, _, all) => cause(findings, all.length > 1)),
      story.findings.length ? story.doubts.map((doubt) => h('p', {class: 'muted'}, `Besides, ${doubt}.`)) : null,
      story.advice ? h('p', {class: 'todo'}, `To do: ${story.advice}.`) : null,
      h('p', {class: 'muted'}, basis(overview)),
    ),
  );
}

// What is said of tensors with one cause, whenever each began.
function cause(findings, withNames) {
  const [one] = findings;
  return h(
    'dl',
    {class: one.until == null ? 'finding' : 'finding over'},
    withNames || findings.length > 1 ? [h('dt', {}, 'Where'), h('dd', {}, where(findings))] : null,
    h('dt', {}, 'What'),
    h('dd', {}, one.explanation || 'TensorBoard kept no check of that time.'),
    one.cause ? [h('dt', {}, 'Likely cause'), h('dd', {}, one.cause)] : null,
    one.advice ? [h('dt', {}, 'To do'), h('dd', {class: 'todo'}, one.advice)] : null,
  );
}

function where(findings) {
  const when = ({since, until}) => (until == null ? `since step ${since}` : `from step ${since} to ${until}`);
  const parts = findings.map((one) => `${listed(one.tensors)} ${when(one)}`);
  const left = parts.length - MAX_PARTS;
  return `${parts.slice(0, MAX_PARTS).join('; ')}${left > 0 ? ` and ${left} times more` : ''}`;
}

// How many checks the page is based on, and what they cost.
function basis({story, shown, unreadable, cost, hint}) {
  const parts = [];
  if (story.checks > shown) {
    const all = story.checks.toLocaleString('en');
    parts.push(
      `${shown.toLocaleString('en')} of ${all} checks are shown, as many as were kept; they include each change of a verdict` +
        ` and each alert. ${hint ?? ''}`,
    );
  }
  if (unreadable) parts.push(`${unreadable} more cannot be read: they are damaged, or another version wrote them.`);
  if (cost.precision) parts.push(`The loss was evaluated in ${cost.precision} precision.`);
  if (cost.overhead > 0) {
    const share = (100 * cost.overhead).toPrecision(2);
    parts.push(`The checks after the first took ${share} % of the time since.`);
  }
  return parts.join(' ');
}
