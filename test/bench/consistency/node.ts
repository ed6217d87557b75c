/**
 * One node: a process with its own memory, connections and single-flights, which run.ts forks. It
 * reads and writes on command and keeps a log. Times are CLOCK_MONOTONIC, one clock for all
 * processes of a machine.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../support/random.js';
import { type PeerNode, PEERS, type Servers } from './peers.js';
import {
  type Answer,
  type Command,
  type Events,
  type Log,
  READER_REST_MS,
  type RunCommand,
} from './protocol.js';

let node: PeerNode;
let rowsLoaded = 0;

const nowNs = (): number => Number(process.hrtime.bigint());

/** Grows one column for each field of {@link Events}. */
class Recorder {
  private readonly at: number[] = [];
  private readonly took: number[] = [];
  private readonly row: number[] = [];
  private readonly version: number[] = [];

  add(at: number, took: number, row: number, version: number): void {
    this.at.push(at);
    this.took.push(took);
    this.row.push(row);
    this.version.push(version);
  }

  get events(): Events {
    return {
      at: Float64Array.from(this.at),
      took: Float64Array.from(this.took),
      row: Uint8Array.from(this.row),
      version: Float64Array.from(this.version),
    };
  }
}

async function open(peerName: string, servers: Servers): Promise<void> {
  const peer = PEERS[peerName];
  if (!peer) throw new Error(`There is no peer "${peerName}"`);
  node = await peer.open(servers);
  node.dataSource.subscribers.push({
    afterQuery({ query, rawResults }) {
      const isRead = /^SELECT .* FROM "orders"/s.test(query) && !query.endsWith('FOR UPDATE');
      if (!isRead) return;
      rowsLoaded += (rawResults as { rows: unknown[] } | undefined)?.rows.length ?? 0;
    },
  });
}

async function run({ ids, ms, seed, readers, writers }: RunCommand): Promise<Log> {
  const reads = new Recorder();
  const writes = new Recorder();
  const failures: string[] = [];
  const loadedBefore = rowsLoaded;
  const end = nowNs() + ms * 1e6;

  const repeatUntilEnd = async (
    act: (row: number, id: string) => Promise<void>,
    random: Random,
  ) => {
    while (nowNs() < end) {
      const row = random.between(0, ids.length - 1);
      try {
        await act(row, ids[row] as string);
      } catch (error) {
        failures.push(String(error));
      }
    }
  };
  const read = async (row: number, id: string): Promise<void> => {
    const began = nowNs();
    try {
      const version = await node.read(id);
      reads.add(began, nowNs() - began, row, version);
    } finally {
      await sleep(READER_REST_MS);
    }
  };
  const write = async (row: number, id: string): Promise<void> => {
    const began = nowNs();
    const version = await node.write(id);
    const acknowledged = nowNs();
    writes.add(acknowledged, acknowledged - began, row, version);
  };
  const random = new Random(seed);
  const clientsOf = (count: number, kind: string, act: typeof read): Promise<void>[] =>
    Array.from({ length: count }, (_, index) =>
      repeatUntilEnd(act, random.fork(`${kind} ${index}`)),
    );
  await Promise.all([
    ...clientsOf(readers, 'reader', read),
    ...clientsOf(writers, 'writer', write),
  ]);
  return {
    reads: reads.events,
    writes: writes.events,
    rowsLoaded: rowsLoaded - loadedBefore,
    failures,
  };
}

function obey(command: Command): Promise<unknown> {
  switch (command.do) {
    case 'open':
      return open(command.peer, command.servers);
    case 'run':
      return run(command);
    case 'readAll':
      return Promise.all(command.ids.map((id) => node.read(id)));
  }
}

process.on('message', (command: Command) => {
  const answer = (message: Answer): void => void process.send?.(message);
  obey(command).then(
    (result) => answer({ result }),
    (error: unknown) =>
      answer({ error: error instanceof Error ? String(error.stack) : String(error) }),
  );
});
process.once('disconnect', () => process.exit());
