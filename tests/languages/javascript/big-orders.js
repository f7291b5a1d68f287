// Keeps orders from an amount on, and sends each to the path of its country: the README's first plugin, in JavaScript.
let from;
const decoder = new TextDecoder(), encoder = new TextEncoder();

export const transform = {
  init(context) {
    ({ from } = JSON.parse(context.config));
    if (typeof from !== 'number') throw [{ path: ['from'], message: 'say from which amount on, such as from = 100' }];
    return {
      fields: [
        { part: 'value', path: ['amount'], kind: 'decimals', lenient: false },
        { part: 'value', path: ['country'], kind: 'texts', lenient: false },
      ],
      headers: [], setsKeys: 'raw', setsValues: 'raw', setsHeaders: [], sinkSets: [], versions: false, perPartition: false,
    };
  },

  process(batch) {
    const [amounts, countries] = batch.fields.map((field) => field.val);
    const inputs = [], destinations = [], rejects = [];
    for (let row = 0; row < batch.offsets.length; row++) {
      const amount = text(amounts, row), country = text(countries, row);
      if (amount === '') rejects.push({ input: row, code: 'no-amount', message: 'the order has no amount' });
      else if (Number(amount) >= from && country !== '') {
        inputs.push(row);
        destinations.push(encoder.encode(`big/${country}`));
      }
    }
    return { inputs, destinations: column(destinations), headers: [], rejects };
  },
};

// One entry of a column of byte strings; what is null or missing is empty.
function text(column, row) {
  return decoder.decode(column.data.subarray(row ? column.ends[row - 1] : 0, column.ends[row]));
}

// Byte strings as the contract passes them: one behind the other, and where each ends.
function column(parts) {
  const ends = new Uint32Array(parts.length);
  let length = 0;
  parts.forEach((part, at) => { ends[at] = length += part.length; });
  const data = new Uint8Array(length);
  parts.forEach((part, at) => data.set(part, ends[at] - part.length));
  return { ends, data };
}
