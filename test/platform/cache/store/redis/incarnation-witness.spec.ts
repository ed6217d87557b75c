/**
 * A reply counts only if the server ran the command in the incarnation that the command's keys
 * name. The server is the test's: it runs the commands of a connection in their order, and begins
 * another incarnation between any two of them.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  IncarnationChangedError,
  IncarnationWitness,
} from '../../../../../src/platform/cache/store/redis/incarnation-witness.js';
import type { RedisConnection } from '../../../../../src/platform/cache/store/redis/redis-connection.js';
import { RedisNode } from '../../../../../src/platform/cache/store/redis/redis-node.js';
import { registerCleanup } from '../../cleanup.js';

const RUN_ID = 'a'.repeat(40);

const afterThisTest = registerCleanup();

/** A connection whose server runs nothing before the test says so. */
class SteppedConnection {
  readonly isReady = true;
  readonly socketEpoch = 1;
  incarnation = 1;
  private readonly waiting: (() => void)[] = [];

  info(section: string): Promise<string> {
    return this.queue(() =>
      section === 'server'
        ? `run_id:${RUN_ID}\r\n`
        : `role:master\r\nmaster_replid:${this.replid}\r\n`,
    );
  }

  get replid(): string {
    return `${this.incarnation}`.repeat(40);
  }

  /** What keys begin with in the current incarnation. */
  get prefix(): string {
    return `hf:${RUN_ID.slice(0, 16)}.${this.replid.slice(0, 8)}:`;
  }

  queue<Reply>(run: () => Reply): Promise<Reply> {
    return new Promise((resolve) => this.waiting.push(() => resolve(run())));
  }

  /** Runs all commands that are waiting, one by one. @param before called before each of them */
  async runAll(before: () => void = () => undefined): Promise<void> {
    for (let turn = 0; turn < 10; turn++) {
      for (const run of this.waiting.splice(0)) {
        before();
        run();
        await nextTurn();
      }
      await nextTurn();
    }
  }
}

let connection: SteppedConnection;
let witness: IncarnationWitness;

beforeEach(async () => {
  connection = new SteppedConnection();
  witness = new IncarnationWitness(connection as unknown as RedisConnection, {
    isClustered: false,
    onChange: () => undefined,
    onError: () => undefined,
    reconnect: () => undefined,
  });
  afterThisTest(() => witness.close());
  const watching = witness.watch();
  await connection.runAll();
  await watching;
  expect(witness.prefix).toBe(connection.prefix);
});

interface Outcome {
  readonly named: string;
  readonly ranIn: string;
}

/** Sends one command. @returns what it named and where it ran; undefined: its reply is not used */
async function send(before: () => void): Promise<Outcome | undefined> {
  const sending = witness.sendCertified((named) =>
    connection.queue((): Outcome => ({ named, ranIn: connection.prefix })),
  );
  const outcome = sending.catch((error: unknown) => {
    expect(error).toBeInstanceOf(IncarnationChangedError);
    return undefined;
  });
  await connection.runAll(before);
  return outcome;
}

describe('a command', () => {
  it('has its reply when the incarnation stays', async () => {
    const outcome = await send(() => undefined);
    expect(outcome).toEqual({ named: connection.prefix, ranIn: connection.prefix });
  });

  it.each([1, 2, 3])(
    'has no reply of another incarnation, which begins before statement %i',
    async (at) => {
      let statements = 0;
      const outcome = await send(() => {
        statements++;
        if (statements === at) connection.incarnation++;
      });
      expect(outcome?.ranIn).toBe(outcome?.named);
    },
  );

  it('is certified with the other commands of its turn, by one question', async () => {
    let statements = 0;
    const sending = Promise.all(
      [1, 2, 3].map((reply) => witness.sendCertified(() => connection.queue(() => reply))),
    );
    await connection.runAll(() => statements++);
    expect([await sending, statements]).toEqual([[1, 2, 3], 4]);
  });
});

describe('a script that the server has lost', () => {
  it('is not sent again to another incarnation than the one that its key names', async () => {
    const prefixes = ['hf:first:', 'hf:second:'];
    const commands: string[] = [];
    const node = Object.assign(Object.create(RedisNode.prototype) as object, {
      witness: {
        sendCertified: (sendIn: (prefix: string) => Promise<unknown>) =>
          sendIn(prefixes.shift() as string),
      },
      connection: {
        sendCommand: async ([command = '']: string[]) => {
          commands.push(command);
          if (command === 'EVALSHA') throw new Error('NOSCRIPT No matching script');
        },
      },
    }) as unknown as RedisNode;
    await expect(node.runScript('fence', 'k', ['t', '1'])).rejects.toThrow(IncarnationChangedError);
    expect(commands).toEqual(['EVALSHA']);
  });
});
