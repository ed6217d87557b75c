/** The checker of what HTTP clients saw: it accepts a good history and finds each damage to it. */
import { describe, expect, it } from '@jest/globals';
import { checkHistory, type Rule, RULES } from './checker.js';
import { GONE, type History, type Read, type Write } from './history.js';

const write = (more: Partial<Write> & Pick<Write, 'resource' | 'version'>): Write => ({
  begin: 100,
  acknowledgedAt: 200,
  ...more,
});

const read = (more: Partial<Read> & Pick<Read, 'resource' | 'version'>): Read => ({
  request: 'GET',
  etag: `"${more.version}"`,
  body: undefined,
  begin: 300,
  end: 310,
  ...more,
});

/** At 200 an order has version 2, a user is called bob instead of ada, and a session has ended. */
const GOOD: History = {
  writes: [
    write({ resource: 'order', version: 1, owner: 'user', begin: 0, acknowledgedAt: 10 }),
    write({ resource: 'order', version: 2 }),
    write({ resource: 'user', version: 1, name: 'ada', begin: 0, acknowledgedAt: 10 }),
    write({ resource: 'user', version: 2, name: 'bob' }),
    write({ resource: 'session', version: GONE }),
    write({ resource: 'deleted', version: 1, begin: 0, acknowledgedAt: 10 }),
    write({ resource: 'deleted', version: GONE }),
  ],
  reads: [
    read({ resource: 'order', version: 1, begin: 150, end: 400, body: 'one' }),
    read({ resource: 'order', version: 2, body: 'two' }),
    read({ resource: 'deleted', version: 0, etag: undefined }),
  ],
  lists: [{ owner: 'user', request: 'GET', orders: ['order'], begin: 50, end: 60 }],
  searches: [
    { name: 'ada', request: 'GET', user: undefined, begin: 150, end: 160 },
    { name: 'ada', request: 'GET', user: 'user', begin: 150, end: 400 },
    { name: 'bob', request: 'GET', user: 'user', begin: 300, end: 310 },
  ],
  sessionUses: [
    { session: 'session', request: 'GET', isAccepted: true, begin: 190, end: 210 },
    { session: 'session', request: 'GET', isAccepted: false, begin: 150, end: 160 },
    { session: 'session', request: 'GET', isAccepted: false, begin: 300, end: 310 },
  ],
  answers: [
    { key: 'k', answer: '201 a' },
    { key: 'k', answer: '201 a' },
    { key: 'l', answer: '201 b' },
  ],
};

interface Damage {
  readonly name: string;
  readonly rule: Rule;
  readonly damaged: Partial<History>;
}

const search = (name: string, user: string | undefined, begin: number) => ({
  searches: [{ name, request: 'GET', user, begin, end: begin + 10 }],
});

const use = (isAccepted: boolean, begin: number) => ({
  sessionUses: [{ session: 'session', request: 'GET', isAccepted, begin, end: begin + 10 }],
});

const DAMAGES: readonly Damage[] = [
  {
    name: 'an old version after the acknowledgement of a later one',
    rule: 'stale',
    damaged: { reads: [read({ resource: 'order', version: 1 })] },
  },
  {
    name: 'a row that is not found',
    rule: 'stale',
    damaged: { reads: [read({ resource: 'order', version: 0, etag: undefined })] },
  },
  {
    name: 'a user that was deleted',
    rule: 'stale',
    damaged: { reads: [read({ resource: 'deleted', version: 1 })] },
  },
  {
    name: 'the ETag of another version',
    rule: 'etag',
    damaged: { reads: [read({ resource: 'order', version: 2, etag: '"1"' })] },
  },
  {
    name: 'two representations of one version',
    rule: 'representation',
    damaged: {
      reads: ['paid', 'placed'].map((body) => read({ resource: 'order', version: 2, body })),
    },
  },
  {
    name: 'a list without an order',
    rule: 'list',
    damaged: { lists: [{ owner: 'user', request: 'GET', orders: [], begin: 50, end: 60 }] },
  },
  { name: 'a former name', rule: 'search', damaged: search('ada', 'user', 300) },
  {
    name: 'a name that nobody seems to have',
    rule: 'search',
    damaged: search('bob', undefined, 300),
  },
  { name: 'a name of another user', rule: 'search', damaged: search('bob', 'deleted', 300) },
  { name: 'a session that has ended', rule: 'ended session', damaged: use(true, 300) },
  { name: 'a session that is not accepted yet', rule: 'live session', damaged: use(false, 50) },
  {
    name: 'another answer to the same key',
    rule: 'one answer',
    damaged: { answers: ['201 a', '201 b'].map((answer) => ({ key: 'k', answer })) },
  },
];

describe('the checker of what HTTP clients saw', () => {
  it('accepts a history in which every promise was kept', () =>
    expect(checkHistory(GOOD)).toEqual([]));

  it.each(DAMAGES)('reports $name', ({ rule, damaged }) => {
    const rules = checkHistory({ ...GOOD, ...damaged }).map((violation) => violation.rule);
    expect(rules).toEqual([rule]);
  });

  it('has a damaged history for every rule', () => {
    const rules = new Set(DAMAGES.map(({ rule }) => rule));
    expect([...rules].sort()).toEqual(Object.keys(RULES).sort());
  });
});
