/**
 * People, goods and notes that look real, and the dice that choose among them: the same seed rolls the same numbers on every
 * machine. Used by seed.ts to fill a database and by demo.ts to use a running service.
 */
import { createHash } from 'node:crypto';
import type { OrderItem } from '../src/orders/order.entity.js';

/** sfc32, started from the SHA-256 of a text: fast, good enough for samples, never for secrets. */
export class Dice {
  private readonly state: Int32Array;

  constructor(seed: string) {
    const digest = createHash('sha256').update(seed).digest();
    this.state = new Int32Array([0, 4, 8, 12].map((offset) => digest.readInt32LE(offset)));
    for (let round = 0; round < 12; round++) this.roll();
  }

  /** 32 random bits, as an unsigned number. */
  roll(): number {
    const [a, b, c, counter] = this.state as unknown as [number, number, number, number];
    const sum = (a + b + counter) | 0;
    this.state[0] = b ^ (b >>> 9);
    this.state[1] = c + (c << 3);
    this.state[2] = ((c << 21) | (c >>> 11)) + sum;
    this.state[3] = counter + 1;
    return sum >>> 0;
  }

  /** From 0 to below 1. */
  share(): number {
    return this.roll() / 2 ** 32;
  }

  chance(probability: number): boolean {
    return this.share() < probability;
  }

  /** A whole number from `least` to `most`. */
  between(least: number, most: number): number {
    return least + Math.floor(this.share() * (most - least + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.share() * list.length)] as T;
  }

  /** Exponentially distributed: how long one waits for what takes `mean` on average. */
  wait(mean: number): number {
    return -mean * Math.log(1 - this.share());
  }

  /** From 0 to below `count`; place k about as likely as 1/(k+1), as Zipf has it: P(k) = ln((k+2)/(k+1)) / ln(count+1). */
  zipf(count: number): number {
    return Math.floor((count + 1) ** this.share()) - 1;
  }

  bytes(count: number): Uint8Array {
    const words = Uint32Array.from({ length: Math.ceil(count / 4) }, () => this.roll());
    return new Uint8Array(words.buffer, 0, count);
  }
}

export const FIRST_NAMES =
  `ada aino alice amir ana anders anna arjun astrid bao bela carla chidi chloe dario diego elif
elena emil emma erik fatima felix finn freya grace hana hugo ida imani ines ingrid ivan jan jonas julia kai karin kenji
lara lea leo lena liam lina lucas luis maja malik maria marta mateo maya mei mia milan mina nadia nils nina noah nora olga
omar oscar paula pavel petra priya rafael ravi rosa ruth sami sara selma simon sofia sven tara theo tomas vera viktor
wanjiru yara yusuf zoe`.split(/\s+/);

export const LAST_NAMES =
  `adeyemi ahmed andersen bauer becker berg bianchi brown castro chen costa dahl diaz dubois
eriksson fischer fontaine garcia garner haas hansen horvat ivanova jansen jensen johansson kaya keller khan kim kowalski
kumar larsen laurent lehmann lindqvist lopez maier marino martin mbeki meyer moreau moretti mueller murphy nakamura
nguyen nielsen novak okafor oliveira olsen omondi ortega park patel peeters pereira petrov popescu rossi ruiz saito
santos sato schmidt silva singh sokolov sousa tanaka thomsen toth tran vargas virtanen vogel wagner walker weber wood
yilmaz young zhang zimmermann`.split(/\s+/);

/** Currencies: minor units that one euro cent's worth of goods costs, how fine prices are, and how often they are used. */
const CURRENCIES = [
  { code: 'EUR', rate: 1, step: 10, weight: 46 },
  { code: 'USD', rate: 1.08, step: 10, weight: 22 },
  { code: 'GBP', rate: 0.86, step: 10, weight: 12 },
  { code: 'SEK', rate: 11.3, step: 500, weight: 8 },
  { code: 'CHF', rate: 0.95, step: 10, weight: 6 },
  { code: 'PLN', rate: 4.3, step: 100, weight: 4 },
  { code: 'JPY', rate: 1.62, step: 100, weight: 2 },
] as const;

type Currency = (typeof CURRENCIES)[number];

/** What is sold, the best first: sku, name, price in euro cents. */
const GOODS: readonly (readonly [string, string, number])[] = [
  ['ROPE-10', 'Braided dock line, 10 m', 2490],
  ['LAMP-01', 'Signal lamp', 4999],
  ['FEND-02', 'Fender, medium', 1890],
  ['GLOV-M', 'Sailing gloves, size M', 2990],
  ['KNIF-03', 'Rigging knife', 3450],
  ['MUG-BL', 'Enamel mug, blue', 1190],
  ['TAPE-50', 'Sail repair tape, 50 mm', 1450],
  ['SHCK-08', 'Bow shackle, 8 mm', 690],
  ['CLT-200', 'Horn cleat, 200 mm', 1590],
  ['BAG-40', 'Dry bag, 40 l', 3990],
  ['CHRT-12', 'Coastal chart, sheet 12', 2990],
  ['COMP-05', 'Hand bearing compass', 8900],
  ['VEST-L', 'Life vest 150 N, size L', 12900],
  ['ANCH-10', 'Plough anchor, 10 kg', 18900],
  ['CHN-08', 'Anchor chain, 8 mm, a metre', 890],
  ['WNCH-16', 'Self-tailing winch, size 16', 64900],
  ['BLK-57', 'Ratchet block, 57 mm', 5990],
  ['PUMP-12', 'Bilge pump, 12 V', 4290],
  ['BATT-80', 'Deep-cycle battery, 80 Ah', 17900],
  ['PNL-100', 'Solar panel, 100 W', 13900],
  ['VHF-25', 'Marine VHF radio, 25 W', 22900],
  ['AIS-B', 'AIS transponder, class B', 54900],
  ['EPIRB-1', 'Emergency beacon', 39900],
  ['LOG-A5', 'Logbook, A5', 1690],
  ['FLAG-SE', 'Courtesy flag, Sweden', 990],
  ['OIL-05', 'Engine oil, 5 l', 4490],
  ['FILT-07', 'Fuel filter', 1290],
  ['PAIN-25', 'Antifouling, 2.5 l, black', 8990],
  ['VARN-01', 'Yacht varnish, 1 l', 3290],
  ['STOV-2', 'Gimballed stove, two burners', 42900],
];

const NOTES = [
  'Ring twice.',
  'Leave it with the harbour master.',
  'Berth 14, the blue hull.',
  'Please call before delivery.',
  'A gift: no prices in the parcel, please.',
  'The crew is aboard after 17:00.',
  'Weekdays only.',
  'Same address as last time.',
  'Schlüssel beim Hafenmeister.',
  'Merci de laisser à l’accueil.',
  '荷物は受付へお願いします。',
  'Careful, fragile ⚓',
] as const;

export const REASONS: Readonly<Record<'cancel' | 'refund', readonly string[]>> = {
  cancel: [
    'Ordered twice by mistake.',
    'Found it in the locker after all.',
    'Takes too long.',
    'Out of stock.',
  ],
  refund: ['Arrived damaged.', 'The wrong size.', 'Not as described.', 'Returned within 14 days.'],
};

/** A currency, the common ones more often. */
export function currency(dice: Dice): Currency['code'] {
  let left = dice.share() * CURRENCIES.reduce((sum, { weight }) => sum + weight, 0);
  return (CURRENCIES.find(({ weight }) => (left -= weight) < 0) ?? CURRENCIES[0]).code;
}

/** One to six different goods, few more often than many, at that currency's prices. */
export function items(dice: Dice, code: Currency['code']): OrderItem[] {
  const { rate, step } = CURRENCIES.find((one) => one.code === code) ?? CURRENCIES[0];
  const chosen = new Set<number>();
  for (let count = 1 + dice.zipf(6); count > 0; count--) chosen.add(dice.zipf(GOODS.length));
  return [...chosen].map((place) => {
    const [sku, name, cents] = GOODS[place] as (typeof GOODS)[number];
    const unitPrice =
      code === 'EUR' ? cents : Math.max(step, Math.round((cents * rate) / step) * step);
    return { sku, name, quantity: 1 + dice.zipf(cents < 3000 ? 12 : 2), unitPrice };
  });
}

/** A note, for three orders in ten. */
export const note = (dice: Dice): string | null => (dice.chance(0.3) ? dice.pick(NOTES) : null);
