/**
 * Realistic names, goods and notes for the seed and the demo, and the random choices among them.
 * All randomness comes from a seeded generator: one seed makes the same data on every machine.
 */
import type { Random } from '../test/support/random.js';
import type { OrderItem } from '../src/orders/order.entity.js';

/**
 * A rank from 0 to `count` - 1 by Zipf's law: rank k is about 1/(k+1) as likely as rank 0,
 * precisely P(k) = ln((k+2)/(k+1)) / ln(count+1).
 */
export const zipfRank = (random: Random, count: number): number =>
  Math.floor((count + 1) ** random.next()) - 1;

/** An exponentially distributed duration, in the unit of `mean`. */
export const exponential = (random: Random, mean: number): number =>
  -mean * Math.log(1 - random.next());

export function randomBytes(random: Random, count: number): Uint8Array {
  const words = Uint32Array.from({ length: Math.ceil(count / 4) }, () => random.next() * 2 ** 32);
  return new Uint8Array(words.buffer, 0, count);
}

export const FIRST_NAMES = `
  ada aino alice amir ana anders anna arjun astrid bao bela carla chidi chloe dario diego elif
  elena emil emma erik fatima felix finn freya grace hana hugo ida imani ines ingrid ivan jan
  jonas julia kai karin kenji lara lea leo lena liam lina lucas luis maja malik maria marta
  mateo maya mei mia milan mina nadia nils nina noah nora olga omar oscar paula pavel petra
  priya rafael ravi rosa ruth sami sara selma simon sofia sven tara theo tomas vera viktor
  wanjiru yara yusuf zoe
`
  .trim()
  .split(/\s+/);

export const LAST_NAMES = `
  adeyemi ahmed andersen bauer becker berg bianchi brown castro chen costa dahl diaz dubois
  eriksson fischer fontaine garcia garner haas hansen horvat ivanova jansen jensen johansson
  kaya keller khan kim kowalski kumar larsen laurent lehmann lindqvist lopez maier marino
  martin mbeki meyer moreau moretti mueller murphy nakamura nguyen nielsen novak okafor
  oliveira olsen omondi ortega park patel peeters pereira petrov popescu rossi ruiz saito
  santos sato schmidt silva singh sokolov sousa tanaka thomsen toth tran vargas virtanen vogel
  wagner walker weber wood yilmaz young zhang zimmermann
`
  .trim()
  .split(/\s+/);

interface Currency {
  readonly code: string;
  /** Minor units for one euro cent's worth of goods. */
  readonly rate: number;
  /** Prices are multiples of so many minor units. */
  readonly step: number;
  /** The share of all orders, from 0 to 1. */
  readonly chance: number;
}

const CURRENCIES = [
  { code: 'EUR', rate: 1, step: 10, chance: 0.46 },
  { code: 'USD', rate: 1.08, step: 10, chance: 0.22 },
  { code: 'GBP', rate: 0.86, step: 10, chance: 0.12 },
  { code: 'SEK', rate: 11.3, step: 500, chance: 0.08 },
  { code: 'CHF', rate: 0.95, step: 10, chance: 0.06 },
  { code: 'PLN', rate: 4.3, step: 100, chance: 0.04 },
  { code: 'JPY', rate: 1.62, step: 100, chance: 0.02 },
] as const satisfies readonly Currency[];

/** Goods below this price are bought in larger quantities. */
const CHEAP_BELOW_CENTS = 3_000;

/** All goods, the best-selling first: sku, name, price in euro cents. */
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

/** Reasons that customers give for an action. */
export const REASONS: Readonly<Record<'cancel' | 'refund', readonly string[]>> = {
  cancel: [
    'Ordered twice by mistake.',
    'Found it in the locker after all.',
    'Takes too long.',
    'Out of stock.',
  ],
  refund: ['Arrived damaged.', 'The wrong size.', 'Not as described.', 'Returned within 14 days.'],
};

/**
 * Chooses one of several options by their chances, which may sum up to less than 1.
 * @returns undefined for the rest
 */
export function chooseByChance<T extends { readonly chance: number }>(
  random: Random,
  options: readonly T[],
): T | undefined {
  const share = random.next();
  let sum = 0;
  return options.find(({ chance }) => {
    sum += chance;
    return share < sum;
  });
}

/** An ISO 4217 code; common currencies are more likely. */
export const randomCurrency = (random: Random): string =>
  (chooseByChance(random, CURRENCIES) ?? CURRENCIES[0]).code;

/** One to six different goods at the currency's prices; few are more likely than many. */
export function randomItems(random: Random, currencyCode: string): OrderItem[] {
  const currency = CURRENCIES.find(({ code }) => code === currencyCode) ?? CURRENCIES[0];
  const choices = Array.from({ length: 1 + zipfRank(random, 6) }, () =>
    zipfRank(random, GOODS.length),
  );
  return [...new Set(choices)].map((rank) => {
    const [sku, name, cents] = GOODS[rank] as (typeof GOODS)[number];
    const maxQuantity = cents < CHEAP_BELOW_CENTS ? 12 : 2;
    return {
      sku,
      name,
      quantity: 1 + zipfRank(random, maxQuantity),
      unitPrice: priceIn(currency, cents),
    };
  });
}

/** A price in euro cents as minor units of another currency. */
function priceIn({ code, rate, step }: Currency, cents: number): number {
  if (code === 'EUR') return cents;
  return Math.max(step, Math.round((cents * rate) / step) * step);
}

/** A note for three orders in ten, else null. */
export const randomNote = (random: Random): string | null =>
  random.chance(0.3) ? random.pick(NOTES) : null;
