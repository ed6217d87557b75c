/** The subjects of a round by kind and by id, and how clients choose among them. */
import type { Random } from '../../support/random.js';
import type { Subject, SubjectIndex, SubjectKind } from './history.js';

/** Fewer orders than the list of a user keeps (order.entity.ts). */
export const MAX_LISTED_ORDERS = 100;

export class RoundSubjects {
  private readonly byKind = new Map<SubjectKind, SubjectIndex[]>();
  private readonly byId: ReadonlyMap<string, SubjectIndex>;

  constructor(private readonly subjects: readonly Subject[]) {
    for (const [index, { kind }] of subjects.entries()) {
      this.byKind.set(kind, [...this.ofKind(kind), index]);
    }
    this.byId = new Map(subjects.map(({ id }, index) => [id, index]));
  }

  at(index: SubjectIndex): Subject {
    return this.subjects[index] as Subject;
  }

  ofKind(kind: SubjectKind): readonly SubjectIndex[] {
    return this.byKind.get(kind) ?? [];
  }

  pick(kind: SubjectKind, random: Random): SubjectIndex {
    return random.pick(this.ofKind(kind));
  }

  indexOf(id: string): SubjectIndex {
    return this.byId.get(id) as SubjectIndex;
  }
}

/** Picks one of the actions. Their shares sum up to 1. */
export function pickWeighted<T>(
  actions: readonly (readonly [share: number, action: T])[],
  random: Random,
): T {
  let remaining = random.next();
  for (const [share, action] of actions) {
    if (remaining < share) return action;
    remaining -= share;
  }
  return actions.at(-1)?.[1] as T;
}
