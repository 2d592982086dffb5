// Verdicts and numbers as text.

const BUGS = ['scale', 'sign', 'missing', 'spurious', 'clipped', 'structure', 'nonfinite'];
const LEVELS = {ok: 'ok', float_precision: 'explained'};
const MARKS = {ok: '✔', explained: '≈', unclear: '?', bug: '✖'};

export function level(verdict) {
  return BUGS.includes(verdict) ? 'bug' : (LEVELS[verdict] ?? 'unclear');
}

export function mark(verdict) {
  return MARKS[level(verdict)];
}

export function label(verdict) {
  const words = String(verdict ?? '').replaceAll('_', ' ') || 'not told';
  return level(verdict) === 'bug' ? `BUG: ${words}` : words;
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

export function place(index) {
  return index?.length ? `[${index.join(', ')}]` : '';
}

// Text that plotly shows unchanged, without markup.
export function plain(text) {
  return String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
