/** Whether the specs named for a mutant notice it. */
import { type Mutant, MutantTextError, type SpecSelection } from './mutant.js';
import type { ScratchCopy } from './scratch-copy.js';
import { runSpecs, type SpecResult } from './spec-run.js';

export interface Verdict {
  readonly mutant: Mutant;
  /** `broken`: the run says nothing about the mutant, and why. */
  readonly state: 'killed' | 'survived' | 'broken';
  /** The test that failed, or the reason. */
  readonly detail: string;
  readonly seconds: number;
}

type Finding = Pick<Verdict, 'state' | 'detail'>;

export class Judge {
  /** What the specs did without a mutant, by their selection. */
  private readonly baselines = new Map<string, Promise<string | undefined>>();

  /** @param trustsSpecs the specs are known to pass without a mutant */
  constructor(
    private readonly copy: ScratchCopy,
    private readonly trustsSpecs: boolean,
  ) {}

  async judge(mutant: Mutant): Promise<Verdict> {
    const failure = this.trustsSpecs ? undefined : await this.findBaselineFailure(mutant);
    const beganAt = performance.now();
    const finding: Finding =
      failure === undefined
        ? await this.tryMutant(mutant)
        : { state: 'broken', detail: `without the mutant: ${failure}` };
    return { mutant, ...finding, seconds: (performance.now() - beganAt) / 1000 };
  }

  private async tryMutant(mutant: Mutant): Promise<Finding> {
    try {
      const run = () => runSpecs(this.copy.folder, mutant);
      return findingOf(await this.copy.withMutant(mutant, run));
    } catch (error) {
      if (!(error instanceof MutantTextError)) throw error;
      return { state: 'broken', detail: error.message };
    }
  }

  /** A test that fails on the service as it is would kill every mutant. */
  private findBaselineFailure({ specs, tests }: SpecSelection): Promise<string | undefined> {
    const selection = { specs, ...(tests === undefined ? {} : { tests }) };
    const key = JSON.stringify(selection);
    const known = this.baselines.get(key);
    const failure = known ?? runSpecs(this.copy.folder, selection).then(baselineFailureOf);
    this.baselines.set(key, failure);
    return failure;
  }
}

function findingOf(result: SpecResult): Finding {
  switch (result.state) {
    case 'failed':
      return { state: 'killed', detail: result.test };
    case 'unloadable':
      return { state: 'broken', detail: result.reason };
    case 'passed':
      return result.tests === 0
        ? { state: 'broken', detail: 'no test has run' }
        : { state: 'survived', detail: `${result.tests} tests passed` };
  }
}

function baselineFailureOf(result: SpecResult): string | undefined {
  const { state, detail } = findingOf(result);
  return state === 'survived' ? undefined : detail;
}
