/** `npm run bench -- <name> [options]`: measurements. Each writes one page of docs/benchmarks/. */
import { runProgram, type ProgramTable } from '../support/program-table.js';

const TABLE: ProgramTable = {
  command: 'npm run bench --',
  byDefault: 'reads',
  programs: {
    reads: {
      description: 'order reads over HTTP beside a bare Fastify route',
      load: () => import('./reads/run.js'),
    },
    near: {
      description: 'what near caches save a reader and cost a writer',
      load: () => import('./near/run.js'),
    },
    logins: {
      description: 'cached reads during a storm of logins',
      load: () => import('./logins/run.js'),
    },
    cache: {
      description: 'what the fenced cache costs, a stampede, lag, and a hanging Redis',
      load: () => import('./cache/run.js'),
    },
    attacks: {
      description: 'what one caller or address can do to the others',
      load: () => import('./attacks/run.js'),
    },
    consistency: {
      description: 'stale reads of Holdfast and of other ways to cache a row',
      load: () => import('./consistency/run.js'),
    },
    lists: {
      description: 'pages of orders where there are a million and where there are few',
      load: () => import('./lists/run.js'),
    },
    orders: {
      description: 'placing an order beside the bare SQL',
      load: () => import('./orders/run.js'),
    },
  },
};

export const run = (argv: string[]): Promise<number> => runProgram(TABLE, argv);
