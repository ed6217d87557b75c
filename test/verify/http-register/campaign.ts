/** Customers and readers on three nodes while faults happen, and the check of what they saw. */
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../../support/eventually.js';
import type { Random } from '../../support/random.js';
import { type FaultSchedule, faultsOf } from '../chaos/faults.js';
import { Caller } from './caller.js';
import { checkHistory, type Violation } from './checker.js';
import { Customer } from './customer.js';
import type { HttpFault } from './faults.js';
import { type History, Recording } from './history.js';
import { Reader } from './reader.js';
import { ADMIN, type HttpSite } from './site.js';

export interface CampaignOptions {
  readonly random: Random;
  /** Unique within the database, at most 20 characters of a username. */
  readonly name: string;
  readonly customers: number;
  readonly readersOfEachCustomer: number;
  /** Milliseconds that a client rests between two requests, at most. */
  readonly maxRestMs: number;
  readonly schedules: readonly FaultSchedule<HttpFault>[];
  /** How often each schedule is passed through. */
  readonly passes: number;
  /** Writes that must be acknowledged at least, and as many reads again after the last fault. */
  readonly minTraffic: number;
}

export interface CampaignResult {
  readonly history: History;
  readonly violations: readonly Violation[];
  /** Answers that no client should get. */
  readonly problems: readonly string[];
  readonly counts: Caller['counts'];
}

/** Sessions that begin and end during a campaign, of each customer. */
const SHORT_SESSIONS = 2;
/** Long enough to happen on a busy machine. */
const TRAFFIC_TIMEOUT_MS = 120_000;

export async function runCampaign(
  site: HttpSite,
  options: CampaignOptions,
): Promise<CampaignResult> {
  const { random, name } = options;
  const recording = new Recording();
  const caller = new Caller(site.nodes);
  const admin = await caller.sendUntilAnswered(random, {
    method: 'POST',
    path: '/v1/sessions',
    body: ADMIN,
  });
  const adminToken = String(admin?.reply.body.token);
  const customers = Array.from({ length: options.customers }, (_, index) => {
    const fork = random.fork(`customer ${index}`);
    return new Customer(caller, recording, fork, `${name}-${index}`);
  });
  for (const customer of customers) await customer.register();

  const clients = new Clients(options);
  const readerCount = options.customers * options.readersOfEachCustomer;
  for (let index = 0; index < readerCount; index++) {
    const fork = random.fork(`reader ${index}`);
    const reader = new Reader(caller, recording, fork, customers, adminToken);
    clients.startReading(() => reader.read());
  }
  for (const customer of customers) clients.startWriting(() => customer.write());

  const shortSessions = customers.map((customer) => beginAndEndSessions(customer));
  await inflictFaults(site, options);
  await Promise.all(shortSessions);
  const writesBefore = recording.writes.length;
  const hasTraffic = (): boolean =>
    recording.writes.length - writesBefore >= options.customers &&
    recording.writes.length >= options.minTraffic;
  await eventually('customers write', hasTraffic, TRAFFIC_TIMEOUT_MS);
  await clients.stopWriting();
  await Promise.all(customers.map((customer) => customer.deleteUser(adminToken)));
  const readsBefore = recording.reads.length;
  const hasReads = (): boolean => recording.reads.length - readsBefore >= options.customers * 5;
  await eventually('readers look for the deleted users', hasReads, TRAFFIC_TIMEOUT_MS);
  await clients.stopReading();

  const { problems, counts } = caller;
  return { history: recording, violations: checkHistory(recording), problems, counts };
}

async function beginAndEndSessions(customer: Customer): Promise<void> {
  for (let count = 0; count < SHORT_SESSIONS; count++) {
    await customer.logIn();
    await sleep(500);
    await customer.endSession();
  }
}

async function inflictFaults(
  site: HttpSite,
  { random, schedules, passes }: CampaignOptions,
): Promise<void> {
  await Promise.all(
    schedules.map(async (schedule, index) => {
      let remaining = schedule.faults.length * passes;
      for (const { pauseMs, fault } of faultsOf(schedule, random.fork(`schedule ${index}`), 1)) {
        await sleep(pauseMs);
        await site.inflict(fault);
        remaining--;
        if (remaining === 0) return;
      }
    }),
  );
}

/** Repeats what readers and writers do until they are stopped. */
class Clients {
  private readonly readers: Promise<void>[] = [];
  private readonly writers: Promise<void>[] = [];
  private isReading = true;
  private isWriting = true;

  constructor(private readonly options: CampaignOptions) {}

  startReading(act: () => Promise<void>): void {
    this.readers.push(this.repeat(act, () => this.isReading));
  }

  startWriting(act: () => Promise<void>): void {
    this.writers.push(this.repeat(act, () => this.isWriting));
  }

  async stopWriting(): Promise<void> {
    this.isWriting = false;
    await Promise.all(this.writers);
  }

  async stopReading(): Promise<void> {
    this.isReading = false;
    await Promise.all(this.readers);
  }

  private async repeat(act: () => Promise<void>, goesOn: () => boolean): Promise<void> {
    const { random, maxRestMs } = this.options;
    while (goesOn()) {
      await act();
      await sleep(random.between(1, maxRestMs));
    }
  }
}
