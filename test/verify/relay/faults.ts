/** What happens to nodes, their links and RabbitMQ while clients place orders. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from 'pg';
import { eventually } from '../../support/eventually.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import type { Random } from '../../support/random.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import type { ServiceNode } from './service-node.js';

/** Only ends a campaign that hangs. */
const DRIVE_TIMEOUT_MS = 3_600_000;
/** Far above the time in which PostgreSQL ends a session without statements, below two hours. */
const TAKEOVER_TIMEOUT_MS = 120_000;
/** Statements that were on their way when the session was lost have taken effect. */
const IN_FLIGHT_MS = 100;

/** A session of a relay that has locked partitions. */
const FIND_LOCK_HOLDER = `
  SELECT pid, client_port AS port
    FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
   WHERE locktype = 'advisory' AND granted AND datname = current_database()
     AND application_name = 'holdfast-outbox'
   LIMIT 1`;
const COUNT_LOCKS = `
  SELECT count(*)::int AS locks FROM pg_locks WHERE pid = $1 AND locktype = 'advisory'`;

const LINK_NAMES = { brokerLink: 'link to RabbitMQ', databaseLink: 'link to PostgreSQL' } as const;

interface RelaySession {
  readonly pid: number;
  /** On the side of the link, as PostgreSQL sees it. */
  readonly port: number;
}

/** How far the clients are. */
export interface Progress {
  readonly totalOrders: number;
  placedOrders: number;
}

export class FaultInjector {
  /** How often each fault happened, by its description. */
  readonly counts: Record<string, number> = {};
  /** For each lost session: until its partitions were free for other relays. */
  readonly takeoverSeconds: number[] = [];
  /** Cutting it would tell PostgreSQL that the session is lost. */
  private linkWithLostSession: TcpProxy | undefined;

  constructor(
    private readonly nodes: readonly ServiceNode[],
    private readonly database: Client,
    private readonly rabbitmq: RabbitmqServer,
    private readonly progress: Progress,
    private readonly random: Random,
  ) {}

  /** Kills one node after some of the orders, and starts it again. */
  async killNode(): Promise<void> {
    const random = this.random.fork('death');
    await this.awaitProgress(0.1 + 0.4 * random.next());
    const node = random.pick(this.nodes);
    await node.kill();
    this.count('node killed with SIGKILL');
    await sleep(random.between(100, 1_000));
    await node.start();
  }

  /** Kills RabbitMQ after half of the orders, and starts it again. */
  async restartRabbitmq(): Promise<void> {
    await this.awaitProgress(0.5);
    await this.rabbitmq.restart();
    this.count('RabbitMQ killed and started again');
  }

  /**
   * Disturbs links, one after the other, until every order is placed and the partitions of lost
   * sessions are free. @throws Error when a lost session keeps them for two minutes
   */
  async disturbLinks(): Promise<void> {
    const random = this.random.fork('faults');
    const faults = [
      (): Promise<void> => this.slowLink(random, 'brokerLink'),
      (): Promise<void> => this.slowLink(random, 'databaseLink'),
      (): Promise<void> => this.cutBrokerLink(random),
      (): Promise<void> => this.cutDatabaseLink(random),
      (): Promise<void> => this.refuseLinks(random),
      (): Promise<void> => this.stallLink(random),
    ];
    const takeover = this.awaitTakeover(await this.loseSession());
    const disturb = async (): Promise<void> => {
      while (this.progress.placedOrders < this.progress.totalOrders) {
        await random.pick(faults)();
        await sleep(random.between(50, 400));
      }
    };
    await Promise.all([takeover, disturb()]);
  }

  healLinks(): void {
    for (const { brokerLink, databaseLink } of this.nodes) {
      brokerLink.heal();
      databaseLink.heal();
    }
  }

  /** Loses the PostgreSQL session of a relay that has locked partitions. */
  private async loseSession(): Promise<RelaySession> {
    for (;;) {
      // Relays keep their locks while they wait for the broker.
      for (const { brokerLink } of this.nodes) brokerLink.stall();
      const session = await eventually('a relay has locked a partition', async () => {
        const { rows } = await this.database.query<RelaySession>(FIND_LOCK_HOLDER);
        return rows[0] as RelaySession;
      });
      const node = this.nodes.find(({ databaseLink }) => databaseLink.lose(session.port));
      this.linkWithLostSession = node?.databaseLink;
      for (const { brokerLink } of this.nodes) brokerLink.resume();
      await sleep(IN_FLIGHT_MS);
      if (await this.hasLocks(session)) {
        this.count('PostgreSQL session lost that has locked partitions');
        return session;
      }
    }
  }

  private async awaitTakeover(session: RelaySession): Promise<void> {
    const lostAt = performance.now();
    const isFree = async (): Promise<boolean> => !(await this.hasLocks(session));
    await eventually('the partitions of a lost session are free', isFree, TAKEOVER_TIMEOUT_MS);
    this.takeoverSeconds.push((performance.now() - lostAt) / 1_000);
    this.linkWithLostSession = undefined;
  }

  private async hasLocks({ pid }: RelaySession): Promise<boolean> {
    const { rows } = await this.database.query<{ locks: number }>(COUNT_LOCKS, [pid]);
    return rows[0]?.locks !== 0;
  }

  private async slowLink(random: Random, name: 'brokerLink' | 'databaseLink'): Promise<void> {
    const link = random.pick(this.nodes)[name];
    this.count(`${LINK_NAMES[name]} slowed by 20 to 80 ms`);
    link.setDelay(20, 60);
    await sleep(random.between(100, 700));
    link.setDelay(0, 0);
  }

  private async cutBrokerLink(random: Random): Promise<void> {
    random.pick(this.nodes).brokerLink.cut();
    this.count(`${LINK_NAMES.brokerLink} cut`);
  }

  /** Not while the node starts: a start that fails is not repeated. */
  private async cutDatabaseLink(random: Random): Promise<void> {
    const { isUp, databaseLink } = random.pick(this.nodes);
    if (!isUp || databaseLink === this.linkWithLostSession) return;
    databaseLink.cut();
    this.count(`${LINK_NAMES.databaseLink} cut`);
  }

  private async refuseLinks(random: Random): Promise<void> {
    this.count('both links to RabbitMQ refused for 0.1 to 0.7 s');
    for (const { brokerLink } of this.nodes) brokerLink.refuse();
    await sleep(random.between(100, 700));
    for (const { brokerLink } of this.nodes) brokerLink.heal();
  }

  private async stallLink(random: Random): Promise<void> {
    const { brokerLink } = random.pick(this.nodes);
    this.count(`${LINK_NAMES.brokerLink} stalled for 0.1 to 0.7 s`);
    brokerLink.stall();
    await sleep(random.between(100, 700));
    brokerLink.resume();
  }

  private async awaitProgress(share: number): Promise<void> {
    const { progress } = this;
    const isReached = (): boolean => progress.placedOrders >= share * progress.totalOrders;
    await eventually('enough orders are placed', isReached, DRIVE_TIMEOUT_MS);
  }

  private count(fault: string): void {
    this.counts[fault] = (this.counts[fault] ?? 0) + 1;
  }
}
