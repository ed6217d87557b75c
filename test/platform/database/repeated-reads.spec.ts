/** Which server answers a read, and what a later read of the same task may not lack. */
import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { DataSource, EntityManager } from 'typeorm';
import type { Config } from '../../../src/config.js';
import { Replicas } from '../../../src/platform/database/replicas.js';
import type { ServerState } from '../../../src/platform/database/replica-state.js';

/** A server that answers as the test tells it. */
class FakeServer {
  isDown = false;
  isInRecovery = true;
  position = 100;
  problem: string | undefined;
  isDue = true;
  readonly manager: EntityManager;

  constructor(readonly name: string) {
    this.manager = { name } as unknown as EntityManager;
  }

  postpone(): void {
    this.isDue = false;
  }

  readState(): Promise<ServerState> {
    if (this.isDown) return Promise.reject(new Error(`${this.name} is down`));
    const { isInRecovery, position } = this;
    const state = { isInRecovery, systemId: '1', timeline: 1, replayAgeMs: 5_000 };
    return Promise.resolve({ ...state, position: BigInt(position) });
  }
}

describe('reads of one task', () => {
  let primary: FakeServer;
  let [first, second]: FakeServer[] = [];
  let replicas: Replicas;

  beforeEach(() => {
    jest.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    primary = Object.assign(new FakeServer('primary'), { isInRecovery: false });
    [first, second] = [new FakeServer('first'), new FakeServer('second')];
    const query = async (): Promise<unknown[]> => {
      const state = await primary.readState();
      return [{ ...state, position: `0/${primary.position.toString(16)}` }];
    };
    const dataSource = { manager: primary.manager, query } as unknown as DataSource;
    replicas = new Replicas(dataSource, { databaseReplicaUrls: [] } as unknown as Config);
    Object.assign(replicas, { replicas: [first, second] });
  });

  const nameOf = (manager: EntityManager): Promise<string> =>
    Promise.resolve((manager as unknown as FakeServer).name);
  /** The read fails on the server that answered before. */
  const failOn =
    (name: string) =>
    async (manager: EntityManager): Promise<string> => {
      const server = await nameOf(manager);
      if (server === name) throw new Error(`${name} fails`);
      return server;
    };

  it('stay with the server that answered first', async () => {
    const reads = replicas.repeatedReads();
    const names = [await reads.read(nameOf), await reads.read(nameOf), await reads.read(nameOf)];
    expect(new Set(names).size).toBe(1);
  });

  it('go on with another replica that has as much, and not with one that has less', async () => {
    const reads = replicas.repeatedReads();
    const name = await reads.read(nameOf);
    const [current, other] = name === 'first' ? [first, second] : [second, first];
    Object.assign(other as FakeServer, { position: 99 });
    Object.assign(current as FakeServer, { isDown: true });
    expect(await reads.read(nameOf)).toBe('primary');
    Object.assign(other as FakeServer, { position: 100 });
    const again = replicas.repeatedReads();
    expect(await again.read(nameOf)).toBe(other?.name);
  });

  it('end with an error when even the primary has less, after a failover that lost commits', async () => {
    const reads = replicas.repeatedReads();
    await reads.read(nameOf);
    Object.assign(first as FakeServer, { isDown: true });
    Object.assign(second as FakeServer, { isDown: true });
    primary.position = 99;
    await expect(reads.read(nameOf)).rejects.toThrow(
      'lacks what the replica of the first read had',
    );
  });

  it('stay with the primary once it has answered', async () => {
    Object.assign(first as FakeServer, { isDown: true });
    Object.assign(second as FakeServer, { isDown: true });
    const reads = replicas.repeatedReads();
    expect(await reads.read(nameOf)).toBe('primary');
    for (const server of [first, second]) {
      Object.assign(server as FakeServer, { isDown: false, isDue: true });
    }
    expect(await reads.read(nameOf)).toBe('primary');
  });

  it('that fail on a replica run on the primary', async () => {
    const reads = replicas.repeatedReads();
    const name = await reads.read(nameOf);
    expect(await reads.read(failOn(name))).toBe('primary');
    expect(replicas.unusedCount).toBe(1);
  });

  it('do not use a replica before the primary has ever answered', async () => {
    primary.isDown = true;
    expect(await replicas.read(nameOf)).toBe('primary');
  });

  it('use a replica while the primary is gone', async () => {
    await replicas.read(nameOf);
    primary.isDown = true;
    Object.assign(first as FakeServer, { position: 900 });
    Object.assign(second as FakeServer, { position: 900 });
    expect(['first', 'second']).toContain(await replicas.read(nameOf));
  });

  it('use a replica that replays what the primary writes meanwhile', async () => {
    let written = 100;
    for (const server of [primary, first, second]) {
      Object.defineProperty(server, 'position', { get: () => ++written });
    }
    expect(['first', 'second']).toContain(await replicas.read(nameOf));
  });

  it('do not ask a replica again at once that was not fit', async () => {
    Object.assign(first as FakeServer, { isInRecovery: false });
    Object.assign(second as FakeServer, { isInRecovery: false });
    await replicas.read(nameOf);
    await replicas.read(nameOf);
    expect([first?.isDue, second?.isDue, replicas.unusedCount]).toEqual([false, false, 2]);
  });
});
