/**
 * One node's part in the near caches of one epoch: it holds a lease, carries revocations out, and
 * sends the revocations of its own writes (docs/design/cache-protocol.md, "The near cache").
 *
 * Invariants: a lease counts from before its renewal was sent, and only when every revocation is
 * carried out that was numbered before it. {@link revoke} resolves when no node answers from before
 * it: each has confirmed, or every lease has ended that was there when it was numbered.
 */
import { randomUUID } from 'node:crypto';
import { withDeadline } from '../../timing/deadline.js';
import { PollingLoop } from '../../timing/polling-loop.js';
import type { CacheTimings } from '../cache-timings.js';
import type {
  ListedNode,
  NearList,
  NearListener,
  NearListState,
  NearRenewal,
} from './near-list.js';

/** Renewals within one lease: two of them may be late. */
const RENEWALS_PER_LEASE = 3;
/** After a lost connection, or a revocation that did not arrive. */
const RESTART_PAUSE_MS = { minMs: 500, maxMs: 5_000 } as const;
/** How long a new listener waits for its own first text. */
const PROBE_TIMEOUT_MS = 500;
const PROBE = 'probe';

/** What {@link NearMember.revoke} sends. */
interface Revocation {
  readonly writer: string;
  readonly id: number;
  readonly keys: readonly string[];
}

/** When a lease begins, by both clocks: one stops while the machine sleeps, the other may jump. */
interface LeaseStart {
  readonly at: number;
  readonly wallAt: number;
}

export interface NearMemberOptions {
  readonly list: NearList;
  /** The list's name. */
  readonly name: string;
  readonly timings: Pick<CacheTimings, 'nearLeaseMs' | 'nearWaitMs'>;
  /** What this node has in its memory. */
  readonly memory: {
    drop(keys: readonly string[]): void;
    clear(): void;
    /** Whether any node keeps this key in its memory. */
    isNear(key: string): boolean;
  };
  readonly onLease?: ((isHeld: boolean) => void) | undefined;
  readonly onWait?: ((seconds: number) => void) | undefined;
  readonly onError?: ((error: unknown) => void) | undefined;
  /** Milliseconds since any moment, never decreasing; default `performance.now`. */
  readonly now?: (() => number) | undefined;
}

export class NearMember {
  /** This node in the list. Each member has its own. */
  readonly node = randomUUID();
  private readonly loop: PollingLoop;
  private readonly now: () => number;
  private listener: NearListener | undefined;
  private lease: LeaseStart | undefined;
  /** A renewal whose revocations have not all arrived. */
  private pending: (LeaseStart & { readonly count: number }) | undefined;
  /** The list of the last renewal; undefined: the memory is empty. */
  private listId: string | undefined;
  /** Every revocation of that list up to this number is carried out. */
  private carriedOut = 0;
  private renewals = 0;
  /** A list that is not whole, and when this process first heard of it. */
  private newList: { readonly id: string; readonly since: number } | undefined;
  private revocations = 0;
  private readonly waits = new Map<number, RevocationWait>();
  private isClosed = false;

  constructor(private readonly options: NearMemberOptions) {
    this.now = options.now ?? (() => performance.now());
    this.loop = new PollingLoop({
      step: () => this.step(),
      onError: (error) => {
        options.onError?.(error);
        this.restart();
      },
      retry: RESTART_PAUSE_MS,
    });
  }

  start(): void {
    this.loop.start();
  }

  /**
   * Whether this node may answer from its memory now. Ask it in the turn of the event loop that
   * looks the value up.
   */
  get hasLease(): boolean {
    const { lease } = this;
    if (!lease) return false;
    const { nearLeaseMs } = this.options.timings;
    const isRunning = this.now() - lease.at < nearLeaseMs;
    return isRunning && Math.abs(Date.now() - lease.wallAt) < nearLeaseMs;
  }

  /** Ends the lease at once. Writes that wait go on waiting. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    void this.loop.stop();
    this.restart();
  }

  /**
   * Resolves when no node answers from what it had under these keys; after `nearWaitMs` and one
   * command at the latest. Call it when the keys are fenced, or deleted from the cache.
   * @throws CacheUnavailableError
   */
  async revoke(keys: readonly string[]): Promise<void> {
    const { list, name, memory, timings, onWait } = this.options;
    const nearKeys = keys.filter((key) => memory.isNear(key));
    if (nearKeys.length === 0) return;
    const beganAt = this.now();
    this.revocations++;
    const id = this.revocations;
    // Confirmations may come before the reply.
    const wait = new RevocationWait(this.now);
    this.waits.set(id, wait);
    try {
      const revocation: Revocation = { writer: this.node, id, keys: nearKeys };
      const found = await list.revoke(name, JSON.stringify(revocation));
      memory.drop(nearKeys);
      this.noteList(found);
      const others = found.nodes.filter(({ node }) => node !== this.node);
      const silent = await wait.end(others, found.isWhole, this.now() + timings.nearWaitMs);
      this.removeSilent(silent);
    } finally {
      this.waits.delete(id);
    }
    onWait?.((this.now() - beganAt) / 1000);
  }

  /** One renewal. @returns milliseconds until the next */
  private async step(): Promise<number> {
    this.listener ??= await this.openListener();
    if (this.pending) {
      // After a stall of this process, what waits in the socket is read first.
      await new Promise((resolve) => setImmediate(resolve));
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (this.pending) throw new Error('A revocation of the near caches did not arrive');
    await this.renew(this.listener);
    return this.options.timings.nearLeaseMs / RENEWALS_PER_LEASE;
  }

  private async renew(listener: NearListener | undefined): Promise<void> {
    const { list, name, onError } = this.options;
    const start = { at: this.now(), wallAt: Date.now() };
    this.renewals++;
    const renewal: NearRenewal = { ...this.record, wholeList: this.findWholeList() };
    let found: NearListState;
    try {
      found = await list.renew(name, renewal);
    } catch (error) {
      // The lease ends by itself. Nothing was missed as long as the listener is there.
      onError?.(error);
      return;
    }
    if (this.isClosed || !listener || this.listener !== listener) return;
    this.noteList(found);
    if (found.id !== this.listId) {
      this.options.memory.clear();
      this.listId = found.id;
      this.carriedOut = found.count;
    }
    if (this.carriedOut >= found.count) this.holdLease(start);
    else this.pending = { ...start, count: found.count };
  }

  private holdLease(start: LeaseStart): void {
    this.pending = undefined;
    this.lease = { at: start.at, wallAt: start.wallAt };
    this.options.onLease?.(true);
  }

  /** This node in the list, as its last renewal has written it. */
  private get record(): ListedNode {
    return { node: this.node, renewal: String(this.renewals) };
  }

  private async openListener(): Promise<NearListener> {
    const { list, name } = this.options;
    let isProven: () => void = () => undefined;
    const proof = new Promise<void>((resolve) => {
      isProven = resolve;
    });
    const listener = await list.listen(name, this.node, {
      onRevocation: (text) => this.carryOut(text),
      onAnswer: (text) => (text === PROBE ? isProven() : this.noteConfirmation(text)),
      onLost: () => {
        if (this.listener !== listener) return;
        this.restart();
        this.loop.wake();
      },
    });
    try {
      // Writers would wait for a node that is listed and hears nothing.
      await list.answer(name, this.node, PROBE);
      await withDeadline(PROBE_TIMEOUT_MS, 'The first text of a listener', proof);
      if (this.isClosed) throw new Error('The near cache is closed');
    } catch (error) {
      listener.close();
      throw error;
    }
    return listener;
  }

  private carryOut(text: string): void {
    const { list, name, memory, onError } = this.options;
    const parsed = parseRevocation(text);
    if (!parsed) {
      this.restart();
      return;
    }
    const { listId, number, revocation } = parsed;
    memory.drop(revocation.keys);
    if (listId === this.listId) this.noteNumber(number);
    if (revocation.writer === this.node) return;
    const answer = list.answer(name, revocation.writer, `${revocation.id}:${this.node}`);
    // Then the writer waits until this node's lease has ended.
    answer.catch((error: unknown) => onError?.(error));
  }

  private noteNumber(number: number): void {
    if (number > this.carriedOut + 1) {
      this.restart();
      return;
    }
    this.carriedOut = Math.max(this.carriedOut, number);
    const { pending } = this;
    if (pending && this.carriedOut >= pending.count) this.holdLease(pending);
  }

  private noteConfirmation(text: string): void {
    const separator = text.indexOf(':');
    const wait = this.waits.get(Number(text.slice(0, separator)));
    wait?.confirm(text.slice(separator + 1));
  }

  /** What this node has may be too old. It begins again with an empty memory. */
  private restart(): void {
    const { list, name, memory, onLease } = this.options;
    this.lease = undefined;
    this.pending = undefined;
    this.listId = undefined;
    memory.clear();
    onLease?.(false);
    const { listener } = this;
    this.listener = undefined;
    listener?.close();
    // Writers need not wait for this node. A renewal that is still under way lists it again; then
    // they wait once.
    if (this.renewals > 0) list.remove(name, this.record).catch(() => undefined);
  }

  /** A node that was silent for a lease's time clears its memory before it has the next lease. */
  private removeSilent(silent: readonly ListedNode[]): void {
    const { list, name } = this.options;
    for (const node of silent) list.remove(name, node).catch(() => undefined);
    const wholeList = this.findWholeList();
    if (wholeList !== undefined) list.markWhole(name, wholeList).catch(() => undefined);
  }

  /** Counts how long a list has been there that was found new. */
  private noteList({ id, isWhole }: NearListState): void {
    if (isWhole) this.newList = undefined;
    else if (this.newList?.id !== id) this.newList = { id, since: this.now() };
  }

  /** @returns the new list in which every node must be by now that has a lease */
  private findWholeList(): string | undefined {
    const { newList } = this;
    if (!newList) return undefined;
    const isOldEnough = this.now() - newList.since >= this.options.timings.nearWaitMs;
    return isOldEnough ? newList.id : undefined;
  }
}

/** One revocation's wait. */
class RevocationWait {
  private readonly confirmed = new Set<string>();
  private awaited: Set<string> | undefined;
  private finish: () => void = () => undefined;

  constructor(private readonly now: () => number) {}

  confirm(node: string): void {
    this.confirmed.add(node);
    if (!this.awaited) return;
    this.awaited.delete(node);
    if (this.awaited.size === 0) this.finish();
  }

  /**
   * @param isWhole whether the list has every node; else only the deadline ends the wait
   * @returns the nodes that have not confirmed
   */
  async end(
    nodes: readonly ListedNode[],
    isWhole: boolean,
    deadline: number,
  ): Promise<readonly ListedNode[]> {
    const silent = (): ListedNode[] => nodes.filter(({ node }) => !this.confirmed.has(node));
    if (isWhole) this.awaited = new Set(silent().map(({ node }) => node));
    if (this.awaited?.size === 0) return [];
    // A timer may end a moment early.
    while (this.now() < deadline) {
      const remainingMs = deadline - this.now();
      const isConfirmed = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => resolve(false), Math.ceil(remainingMs));
        this.finish = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
      if (isConfirmed) break;
    }
    return silent();
  }
}

const REVOCATION = /^([\w-]+):(\d+):(\{.*\})$/s;

/** @returns undefined for a text that no node of this release sends */
function parseRevocation(
  text: string,
): { listId: string; number: number; revocation: Revocation } | undefined {
  const match = REVOCATION.exec(text);
  if (!match) return undefined;
  try {
    const revocation = JSON.parse(match[3] as string) as Revocation;
    if (!Array.isArray(revocation.keys)) return undefined;
    return { listId: match[1] as string, number: Number(match[2]), revocation };
  } catch {
    return undefined;
  }
}
