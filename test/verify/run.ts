/** `npm run verify -- <name> [options]`: evidence that takes longer than a test may. */
import { runProgram, type ProgramTable } from '../support/program-table.js';

const TABLE: ProgramTable = {
  command: 'npm run verify --',
  programs: {
    'protocol-model': {
      description: 'every interleaving of a model of the cache protocol',
      load: () => import('./protocol-model/run.js'),
    },
    chaos: {
      description: 'reads and writes of real nodes while everything around them fails',
      load: () => import('./chaos/run.js'),
    },
    'http-register': {
      description: 'what HTTP clients of three nodes see while everything around them fails',
      load: () => import('./http-register/run.js'),
    },
    crash: {
      description: 'nodes that die at each step of a write and of the relay',
      load: () => import('./crash/run.js'),
    },
    relay: {
      description: 'relays of several nodes under faults, and their throughput',
      load: () => import('./relay/run.js'),
    },
    'api-fuzz': {
      description: 'requests made from the OpenAPI document, and broken bytes, against the service',
      load: () => import('./api-fuzz/run.js'),
    },
    migrations: {
      description: 'a million orders that are migrated while requests go on',
      load: () => import('./migrations/run.js'),
    },
    mutants: {
      description: 'parts of the service taken away one by one: the tests must notice each',
      load: () => import('./mutants/run.js'),
    },
    'swagger-ui': {
      description: 'Swagger UI in Chromium, against what `npm run build` made',
      load: () => import('./swagger-ui/run.js'),
    },
  },
};

export const run = (argv: string[]): Promise<number> => runProgram(TABLE, argv);
