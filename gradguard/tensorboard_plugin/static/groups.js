// Which tensors are shown, in which order, and in which groups: a group is a layer, as far as names tell.

export const SORTS = {worst: 'worst first', model: 'in the order of the model'};
const MAX_UNGROUPED = 30; // tensors, which are read at a glance without groups

// The groups {layer, tensors} that are to be shown. A group without a layer has no heading.
export function arrange(tensors, {filter, sort, only}) {
  const wanted = filter.trim().toLowerCase();
  const shown = tensors.filter(({name, is_suspect}) => (!only || is_suspect) && name.toLowerCase().includes(wanted));
  const sorted = sort === 'model' ? shown.toSorted((a, b) => a.order - b.order) : shown;
  if (sorted.length <= MAX_UNGROUPED) return [{layer: '', tensors: sorted}];
  const layers = new Map();
  for (const tensor of sorted) {
    const layer = layerOf(tensor.name);
    if (!layers.has(layer)) layers.set(layer, []);
    layers.get(layer).push(tensor);
  }
  const groups = [];
  for (const [layer, members] of layers) {
    if (layer && members.length > 1) groups.push({layer, tensors: members});
    else if (groups.at(-1)?.layer === '') groups.at(-1).tensors.push(...members);
    else groups.push({layer: '', tensors: members});
  }
  return groups;
}

// The name up to its first part with a number, as in "layers.3" of "layers.3.attn.weight"; else all but the last part.
// Of a name without parts it is the number, as in "W3".
export function layerOf(name) {
  const parts = name.split(/[./]/);
  if (parts.length === 1) return name.match(/\d+/)?.[0] ?? '';
  const numbered = parts.slice(0, -1).findIndex((part) => /\d/.test(part));
  const kept = parts.slice(0, numbered < 0 ? -1 : numbered + 1);
  return name.slice(0, kept.join('.').length);
}

// The tensors whose rows are on the page.
export function visible(groups, open) {
  return groups.flatMap(({layer, tensors}) => (!layer || open.has(layer) ? tensors : []));
}
