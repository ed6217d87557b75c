/** Random ids and times of seeded rows. */
import { v7 as uuidv7 } from 'uuid';
import type { Random } from '../../test/support/random.js';
import { randomBytes } from '../sample-data.js';
import { DAY_MS } from './plan.js';

/** A UUIDv7 of this time, in milliseconds since 1970. */
export const idAt = (random: Random, msecs: number): string =>
  uuidv7({ msecs, random: randomBytes(random, 16) });

/**
 * The time of row `index` of `count`, in milliseconds since 1970. The times ascend with the index
 * and spread evenly over the days. Within a day, noon is more likely than midnight.
 */
export function timeOf(
  random: Random,
  { from, until }: { from: number; until: number },
  index: number,
  count: number,
): number {
  const days = ((index + random.next()) / count) * ((until - from) / DAY_MS);
  const timeOfDay = days % 1;
  const shift = (0.6 * Math.sin(2 * Math.PI * timeOfDay)) / (2 * Math.PI);
  return Math.floor(from + (days + shift) * DAY_MS);
}
