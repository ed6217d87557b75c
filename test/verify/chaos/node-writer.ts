/** The writes of a node's clients, through the unit of work. */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Session } from '../../../src/auth/sessions/session.entity.js';
import { Order } from '../../../src/orders/order.entity.js';
import type { Transaction } from '../../../src/platform/database/transaction.js';
import { User } from '../../../src/users/user.entity.js';
import type { Random } from '../../support/random.js';
import { beginMicros, endMicros, type SubjectIndex, type Written } from './history.js';
import { recordWrite } from './node-recorder.js';
import type { NodeService } from './node-service.js';
import { reach, trackWrite } from './node-steps.js';
import { MAX_LISTED_ORDERS, pickWeighted, type RoundSubjects } from './round-subjects.js';

/** Every process has stamps of its own. */
let lastStamp = Number(process.env.CHAOS_PROCESS_NUMBER) * 10_000_000;

const FAILURE_REST_MS = 5;
const MAX_REASON_CHARACTERS = 80;
const SESSION_MS = 3_600_000;

/** A write that was not carried out, for a reason that is no fault. */
class WriteAbandonedError extends Error {
  override readonly name = 'WriteAbandonedError';
}

/** Carries out one write; its rows get the stamp. */
type Write = (stamp: number) => Promise<Written>;
type WriteChoice = (random: Random) => Write;

export class NodeWriter {
  private readonly choices: readonly (readonly [share: number, choose: WriteChoice])[];

  constructor(
    private readonly service: NodeService,
    private readonly subjects: RoundSubjects,
    private readonly ownerId: string,
  ) {
    const pickOrder = (random: Random): SubjectIndex => subjects.pick('order', random);
    this.choices = [
      [0.4, (random) => this.changeOrders([pickOrder(random)])],
      [0.15, (random) => this.changeOrders([pickOrder(random), pickOrder(random)])],
      [0.08, (random) => this.changeOptimistically(pickOrder(random))],
      [0.08, (random) => this.changeAndRollBack(pickOrder(random), random.between(0, 5))],
      [0.11, (random) => this.insertOrDeleteSession(subjects.pick('session', random))],
      [0.11, (random) => this.renameUser(random)],
      [0.07, (random) => this.placeOrder(subjects.pick('list', random))],
    ];
  }

  /** Carries out one write and records it. Never rejects. */
  async write(random: Random): Promise<void> {
    const carryOut = pickWeighted(this.choices, random)(random);
    lastStamp++;
    const stamp = lastStamp;
    recordWrite({ event: 'begun', stamp, at: beginMicros() });
    const error = await trackWrite(async (tracked) => {
      try {
        const written = await carryOut(stamp);
        const { invalidated } = tracked;
        recordWrite({ event: 'acknowledged', stamp, at: endMicros(), invalidated, written });
        return undefined;
      } catch (cause) {
        const { invalidated } = tracked;
        const reason = reasonOf(cause);
        recordWrite({ event: 'failed', stamp, at: endMicros(), invalidated, reason });
        return cause;
      }
    });
    const isFault = error !== undefined && !(error instanceof WriteAbandonedError);
    if (isFault) await sleep(FAILURE_REST_MS);
  }

  private idOf(subject: SubjectIndex): string {
    return this.subjects.at(subject).id;
  }

  private async changeOrder(
    transaction: Transaction,
    subject: SubjectIndex,
    stamp: number,
  ): Promise<[SubjectIndex, number]> {
    const row = (await transaction.lock(Order, this.idOf(subject))) as Order;
    const after = (await transaction.update(row, { note: String(stamp) })) as Order;
    return [subject, after.version];
  }

  private changeOrders(subjects: readonly SubjectIndex[]): Write {
    // All writers lock in the same order, so that they never wait for each other in a circle.
    const inLockOrder = [...new Set(subjects)].sort((a, b) => a - b);
    return (stamp) =>
      this.service.unitOfWork.run(async (transaction) => {
        const written: [SubjectIndex, number][] = [];
        for (const subject of inLockOrder) {
          written.push(await this.changeOrder(transaction, subject, stamp));
        }
        reach('sql');
        return written;
      });
  }

  private changeOptimistically(subject: SubjectIndex): Write {
    return async (stamp) => {
      const before = (await this.service.orders.findById(this.idOf(subject))) as Order;
      return this.service.unitOfWork.run(async (transaction): Promise<Written> => {
        const after = await transaction.update(before, { note: String(stamp) });
        if (!after) throw new WriteAbandonedError('The row has another version');
        return [[subject, after.version]];
      });
    };
  }

  private changeAndRollBack(subject: SubjectIndex, pauseMs: number): Write {
    return (stamp) =>
      this.service.unitOfWork.run(async (transaction): Promise<Written> => {
        await this.changeOrder(transaction, subject, stamp);
        await sleep(pauseMs);
        throw new WriteAbandonedError('Rolled back on purpose');
      });
  }

  private insertOrDeleteSession(subject: SubjectIndex): Write {
    const id = this.idOf(subject);
    return (stamp) =>
      this.service.unitOfWork.run(async (transaction): Promise<Written> => {
        const session = await transaction.lock(Session, id);
        if (session) {
          const isRemoved = await transaction.remove(session);
          if (!isRemoved) throw new WriteAbandonedError('The row has another version');
          return [[subject, session.version + 1]];
        }
        const now = Date.now();
        const inserted = await transaction.insert(Session, {
          id,
          userId: this.ownerId,
          tokenHash: createHash('sha256').update(id).digest('hex'),
          userAgent: String(stamp),
          ip: null,
          lastSeenAt: new Date(now),
          expiresAt: new Date(now + SESSION_MS),
        });
        return [[subject, inserted.version]];
      });
  }

  /**
   * A user takes another name. In half of the cases a second user takes the name that becomes free,
   * in the same transaction.
   */
  private renameUser(random: Random): Write {
    const [first, second] = [
      this.subjects.pick('user', random),
      this.subjects.pick('user', random),
    ];
    const username = this.idOf(this.subjects.pick('username', random));
    const isHandOver = first !== second && random.chance(0.5);
    return (stamp) =>
      this.service.unitOfWork.run(async (transaction): Promise<Written> => {
        const user = (await transaction.lock(User, this.idOf(first))) as User;
        const successor = isHandOver
          ? ((await transaction.lock(User, this.idOf(second))) as User)
          : undefined;
        const email = `${stamp}@chaos.test`;
        const renamed = (await transaction.update(user, { username, email })) as User;
        if (!successor) return [[first, renamed.version]];
        const succeeded = (await transaction.update(successor, {
          username: user.username,
          email: `${stamp}@Successor.test`,
        })) as User;
        return [
          [first, renamed.version],
          [second, succeeded.version],
        ];
      });
  }

  /** The lock on the user's row makes the numbers of the orders follow their commits. */
  private placeOrder(subject: SubjectIndex): Write {
    const userId = this.idOf(subject);
    return (stamp) =>
      this.service.unitOfWork.run(async (transaction): Promise<Written> => {
        await transaction.lock(User, userId);
        const number = 1 + (await transaction.manager.countBy(Order, { userId }));
        if (number > MAX_LISTED_ORDERS) throw new WriteAbandonedError('The list is full');
        await transaction.insert(Order, {
          id: randomUUID(),
          userId,
          status: 'placed',
          currency: 'EUR',
          items: [{ sku: 'A', name: 'a', quantity: 1, unitPrice: number }],
          total: number,
          note: String(stamp),
        });
        return [[subject, number]];
      });
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return `${error.name}: ${error.message.slice(0, MAX_REASON_CHARACTERS)}`;
}
