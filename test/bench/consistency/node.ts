/**
 * One node: a process of its own, with its own memory, connections and single-flights, that run.ts forks and commands. It reads
 * and writes as it is told and keeps a log; times are CLOCK_MONOTONIC, which all processes of a machine share.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Node, PEERS, type Servers } from './peers.js';
import { randomFrom } from './random.js';

export type Command =
  | { readonly do: 'open'; readonly peer: string; readonly servers: Servers }
  | {
      readonly do: 'run';
      readonly ids: readonly string[];
      readonly ms: number;
      readonly seed: number;
      readonly readers: number;
      readonly writers: number;
    }
  | { readonly do: 'look'; readonly ids: readonly string[] };

/** Columns of equal length: one entry for each read, or for each acknowledged write. */
export interface Events {
  /** Nanoseconds: when the read began, or when the write was acknowledged. */
  readonly at: Float64Array;
  /** Nanoseconds it took. */
  readonly took: Float64Array;
  /** Index into the ids. */
  readonly row: Uint8Array;
  readonly version: Float64Array;
}

export interface Log {
  readonly reads: Events;
  readonly writes: Events;
  /** Rows that PostgreSQL gave to readers. */
  readonly rowsLoaded: number;
  readonly failures: readonly string[];
}

/** Milliseconds between two reads of a reader: a read from memory must not leave the process without time for anything else. */
const PAUSE_MS = 1;

let node: Node;
let rowsLoaded = 0;

const clock = (): number => Number(process.hrtime.bigint());

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
    const { at, took, row, version } = this;
    return {
      at: Float64Array.from(at),
      took: Float64Array.from(took),
      row: Uint8Array.from(row),
      version: Float64Array.from(version),
    };
  }
}

async function open(peer: string, servers: Servers): Promise<void> {
  node = await (PEERS[peer] as (typeof PEERS)[string]).open(servers);
  node.dataSource.subscribers.push({
    afterQuery({ query, rawResults }) {
      if (/^SELECT .* FROM "orders"/s.test(query) && !query.endsWith('FOR UPDATE'))
        rowsLoaded += (rawResults as { rows: unknown[] } | undefined)?.rows.length ?? 0;
    },
  });
}

async function run({
  ids,
  ms,
  seed,
  readers,
  writers,
}: Extract<Command, { do: 'run' }>): Promise<Log> {
  const [reads, writes] = [new Recorder(), new Recorder()];
  const failures: string[] = [];
  const loadedBefore = rowsLoaded;
  const end = clock() + ms * 1e6;

  const client = async (
    random: () => number,
    call: (id: string) => Promise<number>,
    recorder: Recorder,
  ) => {
    while (clock() < end) {
      const row = Math.floor(random() * ids.length);
      const began = clock();
      try {
        const version = await call(ids[row] as string);
        const ended = clock();
        recorder.add(recorder === reads ? began : ended, ended - began, row, version);
      } catch (error) {
        failures.push(String(error));
      }
      if (recorder === reads) await sleep(PAUSE_MS);
    }
  };
  await Promise.all([
    ...Array.from({ length: readers }, (_, index) =>
      client(randomFrom(seed + index), (id) => node.read(id), reads),
    ),
    ...Array.from({ length: writers }, (_, index) =>
      client(randomFrom(seed - 1 - index), (id) => node.write(id), writes),
    ),
  ]);
  return {
    reads: reads.events,
    writes: writes.events,
    rowsLoaded: rowsLoaded - loadedBefore,
    failures,
  };
}

process.on('message', (command: Command) => {
  const answer = (): Promise<unknown> => {
    switch (command.do) {
      case 'open':
        return open(command.peer, command.servers);
      case 'run':
        return run(command);
      case 'look':
        return Promise.all(command.ids.map((id) => node.read(id)));
    }
  };
  answer().then(
    (result) => process.send?.({ result }),
    (error: unknown) =>
      process.send?.({ error: error instanceof Error ? error.stack : String(error) }),
  );
});
process.once('disconnect', () => process.exit());
