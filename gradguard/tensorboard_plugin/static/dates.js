// Of which step the numbers of a tensor are: those of an earlier step are never shown as of the chosen one.
import {agrees, number} from './words.js';

// The step of its own numbers where that is an earlier one; null where they are of this step, or were never measured.
export function earlierStep(report, step) {
  return report.measured_at === step ? null : report.measured_at;
}

// The step that the verdict is of: the last one that looked at the tensor. A verdict without a date is of its check.
export function lastLook({measured_at: measured, screened_at: screened}, step) {
  if (measured === step || screened === step) return step;
  return measured == null && screened == null ? step : Math.max(measured ?? 0, screened ?? 0);
}

// Text with the step of the tensor's own numbers, where that is an earlier one.
export function withDate(text, report, step) {
  const earlier = earlierStep(report, step);
  return earlier == null ? text : `${text}, at step ${count(earlier)}`;
}

// What is said of a tensor, with the dates of what is older.
export function explanation(report, step) {
  const {measured_at: measured, screened_at: screened} = report;
  if (measured === step || (measured == null && (screened == null || screened === step))) return report.explanation;
  const parts = agrees(report.verdict)
    ? [
        screened == null ? 'not checked since' : promise(report, step),
        measured != null && report.discrepancy != null
          ? `d = ${number(report.discrepancy, 2)} at step ${count(measured)}`
          : '',
      ]
    : [
        report.explanation,
        screened == null || screened === step ? '' : `screened at step ${count(screened)}`,
        measured == null ? '' : `measured at step ${count(measured)}`,
      ];
  return parts.filter(Boolean).join('; ');
}

// When something was done, as a value in a list of facts.
export function when(at, step) {
  if (at == null) return 'never';
  return at === step ? 'at this step' : `at step ${count(at)}`;
}

function promise({screened_at: screened, smallest_visible: visible}, step) {
  const lead =
    screened === step ? 'screened' : `not checked since it was screened at step ${count(screened)}`;
  return visible == null ? lead : `${lead}; smallest detectable scale error: ${number(100 * visible, 2)} %`;
}

function count(step) {
  return step.toLocaleString('en');
}
