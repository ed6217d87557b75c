/** How hashing threads are shared: between kinds of work by weight, within a kind by caller. */
import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  HashingQueue,
  type HashingTurn,
  type LaneName,
  LANES,
} from '../../../src/auth/passwords/hashing-queue.js';
import { Problem } from '../../../src/platform/http/problems/problem.js';
import { Gate } from '../../support/gate.js';

const THREADS = 1;

describe('the hashing queue', () => {
  let queue: HashingQueue;
  /** The turns that work was started for, in that order. */
  let started: string[];
  let gate: Gate;
  let requests: Promise<unknown>[];

  beforeEach(async () => {
    queue = new HashingQueue(THREADS);
    started = [];
    gate = new Gate();
    requests = [];
    await ask('login', 'who holds the only thread');
    started = [];
  });

  /** Sends a request whose work ends when the gate opens. Waits until it starts or waits itself. */
  async function ask(lane: LaneName, caller: string): Promise<void> {
    const turn: HashingTurn = { lane, caller };
    const work = async (): Promise<void> => {
      started.push(lane);
      await gate.opened;
    };
    requests.push(queue.run(turn, work).catch((error: unknown) => error));
    await Promise.resolve();
  }

  async function askTimes(times: number, lane: LaneName, callerOf: (index: number) => string) {
    for (let index = 0; index < times; index++) await ask(lane, callerOf(index));
  }

  /** Lets all work end. @returns how many requests were rejected as overloaded */
  async function countRejected(): Promise<number> {
    gate.open();
    const results = await Promise.all(requests);
    const errors = results.filter((result) => result !== undefined);
    errors.forEach((error) => expect((error as Problem).problemType.code).toBe('overloaded'));
    return errors.length;
  }

  const others = (index: number): string => `caller ${index}`;

  it('serves busy lanes by their weights: known devices first, then logins', async () => {
    await askTimes(14, 'new-password', others);
    await askTimes(14, 'login', others);
    await askTimes(14, 'known-device', others);
    await countRejected();
    const firstRounds = started.slice(0, 14);
    const countOf = (lane: string): number => firstRounds.filter((name) => name === lane).length;
    expect(firstRounds[0]).toBe('known-device');
    expect([countOf('known-device'), countOf('login'), countOf('new-password')]).toEqual([8, 4, 2]);
  });

  it('a full lane takes no place of another one', async () => {
    await askTimes(LANES['new-password'].maxWaiting + 5, 'new-password', others);
    await askTimes(LANES.login.maxWaiting, 'login', others);
    await askTimes(LANES['known-device'].maxWaiting, 'known-device', others);
    expect(await countRejected()).toBe(5);
    expect(started.filter((lane) => lane === 'known-device')).toHaveLength(
      LANES['known-device'].maxWaiting,
    );
  });

  it.each(Object.keys(LANES) as LaneName[])(
    'one caller has a bounded share of the lane %s',
    async (lane) => {
      const { maxWaiting, maxWaitingOfCaller } = LANES[lane];
      expect(maxWaitingOfCaller).toBeLessThanOrEqual(maxWaiting / 2);
      await askTimes(maxWaiting, lane, () => 'flood');
      await askTimes(maxWaiting - maxWaitingOfCaller, lane, others);
      expect(await countRejected()).toBe(maxWaiting - maxWaitingOfCaller);
    },
  );

  describe('in a full lane', () => {
    const { maxWaiting } = LANES.login;
    /** The requests that have been rejected so far, by their place in `requests`. */
    async function findRejected(): Promise<number[]> {
      const outcomes = await Promise.all(
        requests.map((request) => Promise.race([request, Promise.resolve('waits')])),
      );
      return outcomes.flatMap((outcome, index) => (outcome instanceof Problem ? [index] : []));
    }

    it('a caller without a request displaces the newest one of the heaviest caller', async () => {
      const heavy = LANES.login.maxWaitingOfCaller;
      await askTimes(heavy, 'login', () => 'heaviest');
      await askTimes(maxWaiting - heavy, 'login', (index) => `flood ${index % 2}`);
      await ask('login', 'newcomer');
      // The first request holds the thread.
      expect(await findRejected()).toEqual([heavy]);
      expect(await countRejected()).toBe(1);
      expect(started).toHaveLength(maxWaiting);
    });

    it('callers displace nobody who has no more requests than they', async () => {
      const heavy = LANES.login.maxWaitingOfCaller;
      await askTimes(heavy, 'login', () => 'heaviest');
      await askTimes(maxWaiting - heavy, 'login', others);
      await askTimes(heavy, 'login', (index) => `newcomer ${index}`);
      const displaced = Array.from({ length: heavy - 1 }, (_, index) => index + 2);
      const lastNewcomer = requests.length - 1;
      expect(await findRejected()).toEqual([...displaced, lastNewcomer]);
    });
  });

  it('a place is free again when its work has ended', async () => {
    const { maxWaitingOfCaller } = LANES.login;
    await askTimes(maxWaitingOfCaller, 'login', () => 'ada');
    expect(await countRejected()).toBe(0);
    gate = new Gate();
    requests = [];
    await askTimes(maxWaitingOfCaller + 2, 'login', () => 'ada');
    expect(await countRejected()).toBe(1);
  });

  it('work that fails gives its thread on, and its error to its caller', async () => {
    gate.open();
    await Promise.all(requests);
    const fail = (): Promise<never> => Promise.reject(new Error('broken'));
    const turn = { lane: 'login', caller: 'ada' } as const;
    await expect(queue.run(turn, fail)).rejects.toThrow('broken');
    await expect(queue.run(turn, () => Promise.resolve('works'))).resolves.toBe('works');
  });
});
