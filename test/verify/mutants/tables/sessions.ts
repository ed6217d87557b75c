/** Sessions and what ends them. */
import { lines, type Mutant } from '../mutant.js';

const service = {
  file: 'src/auth/sessions/sessions.service.ts',
  specs: ['test/auth/sessions/ended-sessions.spec.ts'],
};
const sessions = {
  file: 'src/auth/sessions/sessions.service.ts',
  specs: ['test/auth/sessions/sessions.spec.ts'],
};

export const SESSION_MUTANTS: readonly Mutant[] = [
  {
    ...service,
    name: 'session-lock-left-out',
    without: 'a request writes although its session has ended meanwhile',
    file: 'src/platform/database/unit-of-work.ts',
    text: 'await caller.lockSession(transaction);',
    replacement: 'void caller;',
  },
  {
    ...service,
    name: 'session-lock-without-a-check',
    without: 'a request does not notice that the session that it locks is gone',
    text: lines('    if (!session) throw problems.unauthenticated();', '  }'),
    replacement: '  }',
  },
  {
    ...service,
    name: 'session-read-without-a-lock',
    without: 'a session ends while a request of it is about to commit',
    text: ".setLock('for_key_share')",
    replacement: '',
  },
  {
    ...service,
    name: 'sessions-end-without-a-lock',
    without: 'a request ends sessions though its own has ended meanwhile',
    text: lines(
      "  const lock = { mode: 'pessimistic_write' } as const;",
      "  return manager.find(Session, { where, order: { id: 'ASC' }, lock });",
    ),
    replacement: "  return manager.find(Session, { where, order: { id: 'ASC' } });",
  },
  {
    ...sessions,
    name: 'ended-session-accepted-from-memory',
    without: 'a process remembers the sessions of tokens that it has seen',
    text: "      this.sessions.findByAlias('tokenHash', tokenHash),",
    replacement: lines(
      '      (async () => {',
      '        const self = this as unknown as { known?: Map<string, Session> };',
      '        self.known ??= new Map();',
      '        const found =',
      '          self.known.get(tokenHash) ??',
      "          (await this.sessions.findByAlias('tokenHash', tokenHash));",
      '        if (found) self.known.set(tokenHash, found);',
      '        return found;',
      '      })(),',
    ),
  },
  {
    ...sessions,
    name: 'expired-session-accepted',
    without: 'a session is accepted after its end by time',
    text: lines('    if (!session || !this.isLive(session)) return undefined;', '    const user'),
    replacement: lines('    if (!session) return undefined;', '    const user'),
  },
  {
    ...sessions,
    name: 'roles-remembered',
    without: 'a process remembers the users of tokens that it has seen, with their roles',
    text: 'rememberedUserId === undefined ? null : this.users.findLive(rememberedUserId),',
    replacement: lines(
      'rememberedUserId === undefined',
      '        ? null',
      '        : (((this as unknown as { seen: Map<string, Promise<never>> }).seen ??=',
      '            new Map()).get(rememberedUserId) ??',
      '          ((): Promise<never> => {',
      '            const user = this.users.findLive(rememberedUserId) as Promise<never>;',
      '            (this as unknown as { seen: Map<string, Promise<never>> }).seen.set(',
      '              rememberedUserId,',
      '              user,',
      '            );',
      '            return user;',
      '          })()),',
    ),
    specs: ['test/auth/sessions/revocations.spec.ts'],
    isSlow: true,
  },
  {
    ...sessions,
    name: 'surplus-sessions-not-locked',
    without: 'a login ends the surplus sessions as it has read them without a lock',
    text: 'await this.endLocked(transaction, await lockSessions(transaction, { id: In(ids) }));',
    replacement: lines(
      'const found = await transaction.manager.find(Session, { where: { id: In(ids) } });',
      '    await this.endLocked(transaction, found);',
    ),
    specs: ['test/auth/sessions/session-limit.spec.ts'],
  },
  {
    ...sessions,
    name: 'password-change-keeps-sessions',
    without: 'the other sessions of a user live on after a change of the password',
    file: 'src/auth/auth.service.ts',
    text: 'await this.sessions.endLocked(transaction, otherSessions);',
    replacement: 'void otherSessions;',
    specs: ['test/auth/sessions/revocations.spec.ts'],
    isSlow: true,
  },
  {
    ...sessions,
    name: 'deleted-user-keeps-sessions',
    without: 'the sessions of a deleted user are not ended',
    file: 'src/auth/auth.service.ts',
    text: lines('      await this.sessions.endLocked(transaction, sessions);', '    });'),
    replacement: '    });',
    specs: ['test/auth/sessions/revocations.spec.ts'],
    isSlow: true,
  },
];
