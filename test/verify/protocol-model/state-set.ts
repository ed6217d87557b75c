/** The states that an exploration has found, each packed into the same number of 32-bit words. */

const WORD_BITS = 32;
const MAX_FIELD_BITS = 8;
/** The table of places is at most this full. */
const MAX_LOAD = 0.5;

export class StateSet {
  /** How many states there are; each has its place, from 0 on, in the order of adding. */
  size = 0;
  private readonly wordsPerState: number;
  private readonly wordOf: number[] = [];
  private readonly shiftOf: number[] = [];
  private readonly packed: Uint32Array;
  private readonly unpacked: Uint8Array;
  private words: Uint32Array;
  private parents = new Uint32Array(1 << 10);
  /** Open addressing: a place + 1, or 0 where nothing is. */
  private table = new Uint32Array(1 << 12);

  /** @param widths the bits of each field of a state */
  constructor(private readonly widths: readonly number[]) {
    let bit = 0;
    for (const width of widths) {
      if (width > MAX_FIELD_BITS) throw new Error(`A field of ${width} bits is too wide`);
      // A field that does not fit begins the next word.
      if ((bit % WORD_BITS) + width > WORD_BITS) bit += WORD_BITS - (bit % WORD_BITS);
      this.wordOf.push(Math.floor(bit / WORD_BITS));
      this.shiftOf.push(bit % WORD_BITS);
      bit += width;
    }
    this.wordsPerState = Math.ceil(bit / WORD_BITS);
    this.words = new Uint32Array(this.wordsPerState << 10);
    this.packed = new Uint32Array(this.wordsPerState);
    this.unpacked = new Uint8Array(widths.length);
  }

  /**
   * @param parent the place of the state that leads to it; kept if it is new
   * @returns the state's place
   */
  add(fields: Uint8Array, parent: number): number {
    this.pack(fields);
    const slot = this.slotOfPacked();
    const found = this.table[slot] as number;
    if (found !== 0) return found - 1;
    if (this.size === this.parents.length) this.growStates();
    const place = this.size;
    this.words.set(this.packed, place * this.wordsPerState);
    this.parents[place] = parent;
    this.size++;
    this.table[slot] = this.size;
    if (this.size > this.table.length * MAX_LOAD) this.growTable();
    return place;
  }

  parentOf(place: number): number {
    return this.parents[place] as number;
  }

  /** Valid until the next call. */
  fieldsAt(place: number): Uint8Array {
    const { words, widths, wordOf, shiftOf, unpacked } = this;
    const start = place * this.wordsPerState;
    for (let index = 0; index < widths.length; index++) {
      const word = words[start + (wordOf[index] as number)] as number;
      const mask = (1 << (widths[index] as number)) - 1;
      unpacked[index] = (word >>> (shiftOf[index] as number)) & mask;
    }
    return unpacked;
  }

  private pack(fields: Uint8Array): void {
    const { packed, widths, wordOf, shiftOf } = this;
    packed.fill(0);
    for (let index = 0; index < widths.length; index++) {
      const value = fields[index] as number;
      if (value === 0) continue;
      const width = widths[index] as number;
      if (value >= 1 << width) {
        throw new Error(`Field ${index} is ${value}: too large for ${width} bits`);
      }
      const word = wordOf[index] as number;
      packed[word] = (packed[word] as number) | (value << (shiftOf[index] as number));
    }
  }

  /** Where the packed state is, or the free slot where it belongs. */
  private slotOfPacked(): number {
    const { packed, table, words, wordsPerState } = this;
    const mask = table.length - 1;
    let slot = hashOf(packed, 0, wordsPerState) & mask;
    for (;;) {
      const found = table[slot] as number;
      if (found === 0) return slot;
      const start = (found - 1) * wordsPerState;
      let index = 0;
      while (index < wordsPerState && words[start + index] === packed[index]) index++;
      if (index === wordsPerState) return slot;
      slot = (slot + 1) & mask;
    }
  }

  private growStates(): void {
    const { words, parents } = this;
    this.words = new Uint32Array(words.length * 2);
    this.words.set(words);
    this.parents = new Uint32Array(parents.length * 2);
    this.parents.set(parents);
  }

  private growTable(): void {
    const { words, wordsPerState } = this;
    this.table = new Uint32Array(this.table.length * 2);
    const mask = this.table.length - 1;
    for (let place = 0; place < this.size; place++) {
      let slot = hashOf(words, place * wordsPerState, wordsPerState) & mask;
      while (this.table[slot] !== 0) slot = (slot + 1) & mask;
      this.table[slot] = place + 1;
    }
  }
}

function hashOf(words: Uint32Array, start: number, count: number): number {
  let hash = 0x9e3779b9;
  for (let index = 0; index < count; index++) {
    hash = Math.imul(hash ^ (words[start + index] as number), 0x85ebca6b);
    hash ^= hash >>> 13;
  }
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
