/** What happens to nodes, their links and RabbitMQ while clients place orders. */
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../support/eventually.js';
import type { RabbitmqServer } from '../../support/rabbitmq.js';
import type { Random } from '../../support/random.js';
import type { ServiceNode } from './service-node.js';

/** Only ends a campaign that hangs. */
const DRIVE_TIMEOUT_MS = 3_600_000;

/** How far the clients are. */
export interface Progress {
  readonly totalOrders: number;
  placedOrders: number;
}

export class FaultInjector {
  /** How often each fault happened, by its description. */
  readonly counts: Record<string, number> = {};

  constructor(
    private readonly nodes: readonly ServiceNode[],
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

  /** Disturbs links, one after the other, until every order is placed. */
  async disturbLinks(): Promise<void> {
    const random = this.random.fork('faults');
    const faults = [
      (): Promise<void> => this.slowLink(random),
      (): Promise<void> => this.cutLink(random),
      (): Promise<void> => this.refuseLinks(random),
      (): Promise<void> => this.stallLink(random),
    ];
    while (this.progress.placedOrders < this.progress.totalOrders) {
      await random.pick(faults)();
      await sleep(random.between(50, 400));
    }
  }

  healLinks(): void {
    for (const { link } of this.nodes) link.heal();
  }

  private async slowLink(random: Random): Promise<void> {
    const { link } = random.pick(this.nodes);
    this.count('link slowed by 20 to 80 ms');
    link.setDelay(20, 60);
    await sleep(random.between(100, 700));
    link.setDelay(0, 0);
  }

  private async cutLink(random: Random): Promise<void> {
    random.pick(this.nodes).link.cut();
    this.count('link cut');
  }

  private async refuseLinks(random: Random): Promise<void> {
    this.count('both links refused for 0.1 to 0.7 s');
    for (const { link } of this.nodes) link.refuse();
    await sleep(random.between(100, 700));
    this.healLinks();
  }

  private async stallLink(random: Random): Promise<void> {
    const { link } = random.pick(this.nodes);
    this.count('link stalled for 0.1 to 0.7 s');
    link.stall();
    await sleep(random.between(100, 700));
    link.resume();
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
