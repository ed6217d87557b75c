/** The users of a seed, as columns. */
import { createHash } from 'node:crypto';
import { Random } from '../../test/support/random.js';
import { FIRST_NAMES, LAST_NAMES } from '../sample-data.js';
import { DAY_MS, type Plan, USER_DAYS } from './plan.js';
import { idAt, timeOf } from './random-times.js';

export interface SampleUsers {
  readonly ids: readonly string[];
  readonly usernames: readonly string[];
  /** Milliseconds since 1970, ascending. The first user exists before every order. */
  readonly registeredAt: readonly number[];
  /** An admin without a password, so that nobody can log in. Ships, delivers and refunds orders. */
  readonly clerk: { readonly id: string; readonly username: string };
}

export function makeUsers({ users, seed, until }: Plan): SampleUsers {
  const random = new Random(seed).fork('users');
  const tag = tagOf(seed);
  const from = until - USER_DAYS * DAY_MS;
  const registeredAt = Array.from({ length: users }, (_, index) =>
    index === 0 ? from : timeOf(random, { from, until }, index, users),
  );
  return {
    registeredAt,
    ids: registeredAt.map((time) => idAt(random, time)),
    usernames: registeredAt.map((_, index) => {
      const name = `${random.pick(FIRST_NAMES)}.${random.pick(LAST_NAMES)}`;
      return `${name}.${tag}${index.toString(36)}`;
    }),
    clerk: { id: idAt(random, from), username: `clerk.${tag}` },
  };
}

/** Four characters that keep the names of two seeds apart. */
function tagOf(seed: number): string {
  const digest = createHash('sha256').update(`names ${seed}`).digest();
  return (digest.readUInt32LE() % 36 ** 4).toString(36).padStart(4, '0');
}
