// Verdicts and numbers as text.

export const MARKS = {ok: '✔', explained: '≈', unclear: '?', bug: '✖'};
export const LEVELS = Object.keys(MARKS); // the gravest last
export const STATE_MARKS = {bug: '✖', recovered: '!', unclear: '?', fine: '✔', empty: '–'}; // of runs

const MAX_NAMES = 8; // in a sentence

// By name, as Python serves them: level, words, label, is_factor, agrees. Another version may have logged one that is not here.
let verdicts = {};

export function setVerdicts(served) {
  verdicts = served;
}

export function level(verdict) {
  return verdicts[verdict]?.level ?? 'unclear';
}

export function mark(verdict) {
  return MARKS[level(verdict)];
}

export function words(verdict) {
  return verdicts[verdict]?.words ?? (verdict || 'not told');
}

export function label(verdict) {
  return verdicts[verdict]?.label ?? words(verdict);
}

// Whether the gradient is that of the loss, as far as precision can tell.
export function agrees(verdict) {
  return verdicts[verdict]?.agrees ?? false;
}

// Whether one number, n / g, describes the whole error.
export function isFactor(verdict) {
  return verdicts[verdict]?.is_factor ?? false;
}

// JSON has neither nan nor inf: null stands for a number that is not finite or not measured.
export function number(value, digits = 3) {
  if (value == null) return '–';
  const size = Math.abs(value);
  const isPlain = size === 0 || (size >= 1e-3 && size < 1e6);
  const text = isPlain ? value.toPrecision(digits) : value.toExponential(digits - 1);
  const [digitsOnly, power] = text.split('e');
  const short = digitsOnly.includes('.') ? digitsOnly.replace(/\.?0+$/, '') : digitsOnly;
  return power ? `${short}e${Number(power)}` : short;
}

export function ratio(value, error) {
  if (value == null) return '–';
  return error == null ? number(value, 6) : `${number(value, 6)} ± ${number(error, 2)}`;
}

// Names for a sentence; the last of many are counted.
export function listed(names) {
  const left = names.length - MAX_NAMES;
  return `${names.slice(0, MAX_NAMES).join(', ')}${left > 0 ? ` and ${left} more` : ''}`;
}

export function place(index) {
  return index?.length ? `[${index.join(', ')}]` : '';
}

// Text that plotly shows unchanged, without markup.
export function plain(text) {
  return String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
