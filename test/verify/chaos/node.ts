/**
 * One node, in a process of its own: the service's cache and database modules, with clients that
 * read and write through CachedRepository and UnitOfWork and report what they saw. It obeys the
 * commands of node-messages.ts.
 */
import 'reflect-metadata';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../support/random.js';
import type { SubjectIndex } from './history.js';
import { type Command, type Plan, UNREADABLE } from './node-messages.js';
import { NodeReader } from './node-reader.js';
import { flush, send, startReporting } from './node-recorder.js';
import { NodeService } from './node-service.js';
import { dieAt, restBeforeCommit } from './node-steps.js';
import { NodeWriter } from './node-writer.js';
import { RoundSubjects } from './round-subjects.js';

/** How long the end of a round waits for calls that are in progress. */
const END_TIMEOUT_MS = 60_000;
const FAILURE_REST_MS = 5;

type ClientAction = (random: Random) => Promise<void>;

/** The clients of one round. */
class NodeRound {
  private readonly reader: NodeReader;
  private readonly random: Random;
  private readonly clients: Promise<void>[] = [];
  private isOver = false;
  private callsInProgress = 0;
  private failedReads = 0;
  private rests = 0;

  constructor(
    private readonly service: NodeService,
    private readonly plan: Plan,
  ) {
    const subjects = new RoundSubjects(plan.subjects);
    const writer = new NodeWriter(service, subjects, plan.ownerId);
    this.reader = new NodeReader(service, subjects);
    // A node that starts again within a round goes on with other numbers.
    this.random = new Random(plan.seed + Number(process.env.CHAOS_PROCESS_NUMBER));
    restBeforeCommit(() => this.restBeforeCommit());
    this.startClients(plan.readers, (random) => this.reader.read(random), plan.maxReadRestMs);
    this.startClients(plan.writers, (random) => writer.write(random), plan.maxWriteRestMs);
  }

  /** Stops the clients and waits for calls in progress, but not for those that hang. */
  async end(): Promise<void> {
    this.isOver = true;
    await Promise.race([Promise.all(this.clients), sleep(END_TIMEOUT_MS)]);
    const outcomes = { ...(await this.service.takeOutcomes()), rests: this.rests };
    flush();
    const { callsInProgress: hangingCalls, failedReads } = this;
    send({ type: 'ended', hangingCalls, failedReads, outcomes });
  }

  async readAll(): Promise<void> {
    const readVersion = (subject: SubjectIndex): Promise<number> =>
      this.reader.readVersion(subject).catch(() => UNREADABLE);
    const versions = await Promise.all([...this.plan.subjects.keys()].map(readVersion));
    flush();
    send({ type: 'versions', versions });
  }

  private async restBeforeCommit(): Promise<void> {
    const { restingShare, maxFenceRestMs } = this.plan;
    if (!this.random.chance(restingShare)) return;
    this.rests++;
    await sleep(this.random.between(0, maxFenceRestMs));
  }

  private startClients(count: number, act: ClientAction, maxRestMs: number): void {
    for (let index = 0; index < count; index++) {
      this.clients.push(this.runClient(act, maxRestMs));
    }
  }

  private async runClient(act: ClientAction, maxRestMs: number): Promise<void> {
    const random = this.random.fork(String(this.random.next()));
    // The clients do not all begin at once.
    await sleep(random.between(0, maxRestMs + 5));
    while (!this.isOver) {
      this.callsInProgress++;
      try {
        await act(random);
      } catch {
        // PostgreSQL cannot be reached. No answer is not a stale answer.
        this.failedReads++;
        await sleep(FAILURE_REST_MS);
      } finally {
        this.callsInProgress--;
      }
      if (maxRestMs > 0) await sleep(random.between(0, maxRestMs));
    }
  }
}

const now = Date.now.bind(Date);
const service = await NodeService.start();
let round: NodeRound | undefined;

async function obey(command: Command): Promise<void> {
  switch (command.do) {
    case 'begin':
      service.setDegradedWrites(command.plan.degradedWrites);
      dieAt(undefined);
      round = new NodeRound(service, command.plan);
      return;
    case 'die':
      dieAt(command.step);
      return;
    case 'jump':
      Date.now = () => now() + command.ms;
      return;
    case 'leave':
      await service.close();
      flush();
      process.disconnect();
      return;
    case 'end':
      return round?.end();
    case 'readAll':
      return round?.readAll();
  }
}

startReporting();
process.on('disconnect', () => process.exit(0));
process.on('message', (command: Command) => {
  obey(command).catch((error: unknown) => console.error(error));
});
send({ type: 'ready' });
