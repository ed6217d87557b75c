/**
 * One node's lease, the revocations that it carries out, and the waits of its own. The list is a
 * stand-in, time is a number that the test moves; near-caches.spec.ts has real servers.
 */
import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { NearMember } from '../../../../src/platform/cache/near/near-member.js';
import { eventually } from '../../../support/eventually.js';
import { PretendList } from './pretend-list.js';

const TIMINGS = { nearLeaseMs: 60, nearWaitMs: 90 };

let list = new PretendList();
const members: NearMember[] = [];
let clock: number | undefined;

afterEach(() => {
  for (const member of members.splice(0)) member.close();
  list = new PretendList();
  clock = undefined;
  jest.restoreAllMocks();
});

/** What a node has in its memory. */
class Memory {
  readonly keys = new Set<string>();
  clears = 0;

  isNear(key: string): boolean {
    return key.startsWith('near:');
  }

  drop(keys: readonly string[]): void {
    for (const key of keys) this.keys.delete(key);
  }

  clear(): void {
    this.clears++;
    this.keys.clear();
  }
}

const now = (): number => clock ?? performance.now();

async function join(): Promise<{ member: NearMember; memory: Memory }> {
  const memory = new Memory();
  const member = new NearMember({ list, name: 'e:near', timings: TIMINGS, memory, now });
  members.push(member);
  member.start();
  await eventually('the node has a lease', () => member.hasLease);
  return { member, memory };
}

describe('the lease of a node', () => {
  it('ends by itself', async () => {
    const { member } = await join();
    clock = performance.now();
    list.isLost = true;
    await eventually('the lease is of now', () => member.hasLease);
    clock += TIMINGS.nearLeaseMs;
    expect(member.hasLease).toBe(false);
  });

  it('ends when the wall clock jumps', async () => {
    const { member } = await join();
    const wallNow = Date.now();
    jest.spyOn(Date, 'now').mockReturnValue(wallNow + 3_600_000);
    expect(member.hasLease).toBe(false);
  });

  it('counts from before its renewal was sent', async () => {
    const { member } = await join();
    clock = performance.now() + 10_000;
    list.beforeReply = async () => {
      clock = (clock as number) + TIMINGS.nearLeaseMs;
    };
    const renewals = (): number => Number(list.renewals.get(member.node));
    const before = renewals();
    await eventually('it renews several times', () => renewals() >= before + 3);
    expect(member.hasLease).toBe(false);
  });

  it('ends when the node closes, which leaves the list', async () => {
    const { member } = await join();
    member.close();
    expect(member.hasLease).toBe(false);
    expect(list.renewals.has(member.node)).toBe(false);
  });

  it('ends, with an empty memory, when the listener is lost', async () => {
    const { member, memory } = await join();
    memory.keys.add('near:1');
    list.listeners.get(member.node)?.onLost();
    expect([member.hasLease, memory.keys.size]).toEqual([false, 0]);
    expect(list.renewals.has(member.node)).toBe(false);
  });

  it('begins again with an empty memory when a revocation does not arrive', async () => {
    const { member, memory } = await join();
    const { member: writer } = await join();
    memory.keys.add('near:1');
    list.interceptRevocation = (node, deliver) => {
      if (node !== member.node) deliver();
    };
    await writer.revoke(['near:1']);
    await eventually('it has an empty memory', () => memory.keys.size === 0);
  });

  it('begins again with an empty memory when a number is missing', async () => {
    const { member, memory } = await join();
    memory.keys.add('near:1');
    const revocation = JSON.stringify({ writer: 'w', id: 1, keys: [] });
    list.listeners.get(member.node)?.onRevocation(`${list.id}:2:${revocation}`);
    expect([member.hasLease, memory.keys.size]).toEqual([false, 0]);
  });

  it('begins again with an empty memory for a text that it cannot read', async () => {
    const { member, memory } = await join();
    memory.keys.add('near:1');
    list.listeners.get(member.node)?.onRevocation('nonsense');
    expect([member.hasLease, memory.keys.size]).toEqual([false, 0]);
  });

  it('empties the memory when the list is another one', async () => {
    const { member, memory } = await join();
    memory.keys.add('near:1');
    list.lose();
    await eventually('it has found the new list', () => list.renewals.has(member.node));
    await eventually('its memory is empty', () => memory.keys.size === 0);
    await eventually('it has a lease', () => member.hasLease);
  });

  it('keeps the memory when it renews in the same list', async () => {
    const { member, memory } = await join();
    memory.keys.add('near:1');
    const renewals = (): number => Number(list.renewals.get(member.node));
    const before = renewals();
    await eventually('it renews', () => renewals() > before + 1);
    expect(memory.keys.size).toBe(1);
  });
});

describe('a revocation', () => {
  it('resolves when every node has carried it out', async () => {
    const [writer, reader] = [await join(), await join()];
    for (const { memory } of [writer, reader]) memory.keys.add('near:1').add('near:2');
    await writer.member.revoke(['near:1', 'other:1']);
    expect([...writer.memory.keys, ...reader.memory.keys]).toEqual(['near:2', 'near:2']);
  });

  it('is not sent for keys that no node keeps', async () => {
    const { member } = await join();
    await member.revoke(['other:1']);
    expect(list.count).toBe(0);
  });

  it('waits for a node that does not confirm until its lease has ended', async () => {
    const [writer, reader] = [await join(), await join()];
    list.interceptAnswer = () => undefined;
    clock = performance.now();
    let isDone = false;
    const revocation = writer.member.revoke(['near:1']).then(() => {
      isDone = true;
    });
    await eventually('real time has passed', () => performance.now() > (clock as number) + 120);
    expect(isDone).toBe(false);
    clock += TIMINGS.nearWaitMs + 1;
    await revocation;
    expect(reader.memory.keys.size).toBe(0);
  });

  it('removes a silent node from the list', async () => {
    const [writer, reader] = [await join(), await join()];
    list.interceptRevocation = (node, deliver) => {
      if (node !== reader.member.node) deliver();
    };
    list.beforeReply = () => new Promise(() => undefined);
    await eventually('both renew for the last time', () => !reader.member.hasLease);
    await writer.member.revoke(['near:1']);
    expect(list.renewals.has(reader.member.node)).toBe(false);
  });

  it('leaves a silent node in the list that has renewed meanwhile', async () => {
    const [writer, reader] = [await join(), await join()];
    list.interceptAnswer = () => undefined;
    await writer.member.revoke(['near:1']);
    expect(list.renewals.has(reader.member.node)).toBe(true);
  });

  it('waits for the leases of all nodes while the list is not whole', async () => {
    const { member } = await join();
    list.lose();
    clock = performance.now();
    let isDone = false;
    const revocation = member.revoke(['near:1']).then(() => {
      isDone = true;
    });
    await eventually('real time has passed', () => performance.now() > (clock as number) + 120);
    expect(isDone).toBe(false);
    expect(list.isWhole).toBe(false);
    clock += TIMINGS.nearWaitMs + 1;
    await revocation;
    await eventually('the list is whole', () => list.isWhole);
  });

  it('fails when the list cannot be reached', async () => {
    const { member } = await join();
    list.isLost = true;
    await expect(member.revoke(['near:1'])).rejects.toThrow('gone');
  });
});
