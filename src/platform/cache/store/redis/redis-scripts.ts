/**
 * What one key of the fenced cache looks like in Redis, and the six atomic Lua steps that move it (docs/cache-protocol.md):
 * `L`token, `V`version payload, `N`version, `F`floor (deadline:token,)*. Version and floor are 20 digits, so that text compares
 * as number. The invariant: each step prunes what is past its deadline by Redis's own clock before it decides anything.
 */
import { type CommandParser, defineScript } from 'redis';
import type { CacheEntry, CacheValue } from './cache.store.js';

/**
 * Before each script. `kind` is the key's state (false: absent; '?': nothing that decodes, or no string at all), `version`
 * a value's version or a fence's floor. A fence's members are `deadline:token,`; those whose deadline has passed are
 * dropped at each step, and `others` are the ones left beside this caller's own.
 */
const PRELUDE = `
local key, token = KEYS[1], ARGV[1]
local beyond = '00009007199254740991'
local raw = redis.pcall('GET', key)
if type(raw) == 'table' then raw = '' end
local kind, version = false, '00000000000000000000'
if raw then
  kind = string.sub(raw, 1, 1)
  local digits = string.sub(raw, 2, 21)
  if kind == 'V' or kind == 'N' or kind == 'F' then
    if #digits == 20 and not string.find(digits, '%D') and digits <= beyond then
      version = digits
    else
      kind = '?'
    end
  elseif kind ~= 'L' then
    kind = '?'
  end
end
local others, latest, mine, now = {}, 0, false, 0
local function prune()
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  if kind ~= 'F' then return end
  for deadline, name in string.gmatch(string.sub(raw, 22), '(%d+):([^,]*),') do
    local at = tonumber(deadline)
    if at > now then
      if name == token then
        mine = at
      else
        others[#others + 1] = deadline .. ':' .. name .. ','
        latest = math.max(latest, at)
      end
    else
      -- Nobody knows what its writer has committed: no publication reaches this floor.
      version = beyond
    end
  end
end
local function put(value, ms) redis.call('SET', key, value, 'PX', ms) end
local function keepFence(floor)
  put('F' .. floor .. table.concat(others), string.format('%.0f', latest - now))
end
`;

const LEASE = `
if kind and kind ~= '?' then return raw end
put('L' .. token, ARGV[2])
return false`;

const FILL = `
if raw ~= 'L' .. token then return 0 end
put(ARGV[2], ARGV[3])
return 1`;

/** ARGV[1] is the entry that was seen, ARGV[2] the other, ARGV[3] its milliseconds or '' to keep what is left. */
const REPLACE = `
if raw ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', key, ARGV[2], 'KEEPTTL') else put(ARGV[2], ARGV[3]) end
return 1`;

const FENCE = `
prune()
local deadline = math.max(mine or 0, now + tonumber(ARGV[2]))
others[#others + 1] = string.format('%.0f', deadline) .. ':' .. token .. ','
latest = math.max(latest, deadline)
keepFence(version)
return 1`;

/** ARGV[2] is the encoded entry, or '' for a publication that only leaves the key absent. */
const PUBLISH = `
local published = string.sub(ARGV[2], 2, 21)
local some = published ~= ''
if kind == 'F' then
  prune()
  if #others > 0 then
    if not some then version = beyond elseif published > version then version = published end
    keepFence(version)
  elseif some and mine and published >= version then
    put(ARGV[2], ARGV[3])
  else
    redis.call('DEL', key)
  end
elseif some and (kind == 'V' or kind == 'N') then
  -- What a reader filled for a missing row has no version to compare: it yields, but not to what may be older.
  if published > version then
    if kind == 'V' then put(ARGV[2], ARGV[3]) else redis.call('DEL', key) end
  end
elseif raw then
  redis.call('DEL', key)
end
return 1`;

const UNFENCE = `
if kind ~= 'F' then return 0 end
prune()
if #others > 0 then keepFence(version) else redis.call('DEL', key) end
return 1`;

/** One step as a node-redis script: the key, then the step's own arguments. */
function step<Reply>(body: string) {
  return defineScript({
    SCRIPT: PRELUDE + body,
    NUMBER_OF_KEYS: 1,
    parseCommand(parser: CommandParser, key: string, ...args: string[]) {
      parser.pushKey(key);
      parser.push(...args);
    },
    transformReply: (reply: unknown) => reply as Reply,
  });
}

/** The six steps, as methods for a node-redis client. All are one-key, so they also run on a Cluster. */
export const scripts = {
  hfLease: step<string | null>(LEASE),
  hfFill: step<number>(FILL),
  hfReplace: step<number>(REPLACE),
  hfFence: step<number>(FENCE),
  hfPublish: step<number>(PUBLISH),
  hfUnfence: step<number>(UNFENCE),
};

/**
 * A value as it lies in Redis.
 * @throws RangeError for a version that is no safe integer ≥ 0
 */
export function encode({ version, payload }: Pick<CacheValue, 'version' | 'payload'>): string {
  if (!Number.isSafeInteger(version) || version < 0)
    throw new RangeError(`Not a version: ${version}`);
  return (payload === null ? 'N' : 'V') + String(version).padStart(20, '0') + (payload ?? '');
}

/** What lies in Redis, as a reader sees it: whatever the scripts would overwrite as undecodable is absent here too. */
export function decode(raw: string | null): CacheEntry {
  const kind = raw?.[0];
  if (raw === null || kind === undefined) return { state: 'absent' };
  if (kind === 'L') return { state: 'lease' };
  const digits = raw.slice(1, 21);
  const version = /^\d{20}$/.test(digits) ? Number(digits) : NaN;
  if (!Number.isSafeInteger(version)) return { state: 'absent' };
  if (kind === 'V') return { state: 'value', version, payload: raw.slice(21) };
  if (kind === 'N') return { state: 'none', version };
  return { state: kind === 'F' ? 'fence' : 'absent' };
}

/**
 * The token itself, if it can be told from its neighbours in a fence.
 * @throws RangeError otherwise
 */
export function checked(token: string): string {
  if (!/^[\w-]+$/.test(token)) throw new RangeError('A token is made of letters, digits, _ and -');
  return token;
}
