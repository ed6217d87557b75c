/** What is said to and by the users' routes. */
import { applyDecorators } from '@nestjs/common';
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { type Role, ROLES } from '../http/actor.js';
import { Email, Id, Integer, SomeOf, Text, Time } from '../http/fields.js';
import { PageQuery, PageShape } from '../http/pagination.js';
import { represent } from '../cache/representation.js';
import type { User } from './user.entity.js';

/** `A` to `Z` in lower case and nothing else: Unicode's folding makes a `k` of the Kelvin sign, which is no letter of a name. */
export const foldAscii = (text: string): string =>
  text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

/** Upper case is taken for lower case: there is one name, however it is typed. */
export const Username = (
  options: { optional?: boolean; example?: string; description?: string } = {},
): PropertyDecorator =>
  applyDecorators(
    Text({
      min: 3,
      max: 32,
      pattern: /^[A-Za-z0-9_.-]*$/,
      form: 'made of a-z, 0-9, "_", "." and "-"',
      description: 'Upper case is kept as lower case: unique whatever its case.',
      ...options,
    }),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? foldAscii(value) : value,
    ),
  );

export class ChangeUser {
  @Username({ optional: true, example: 'ada.lovelace' })
  username?: string;

  @Email({ optional: true, example: 'ada@example.org', description: 'Unique whatever its case.' })
  email?: string;
}

export class ChangeRoles {
  @SomeOf(ROLES, {
    example: ['user', 'support'],
    description: 'All roles that the user has from now on.',
  })
  roles: Role[];
}

export class ListUsersQuery extends PageQuery {
  @Username({ optional: true, description: 'Only the user with this name.' })
  username?: string;
}

@ApiSchema({ name: 'User' })
export class UserView {
  @Id({ example: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a' })
  id: string;
  @ApiProperty({ type: String, example: 'ada' })
  username: string;
  @ApiProperty({ type: String, format: 'email', example: 'ada@example.com' })
  email: string;
  @SomeOf(ROLES, { example: ['user'] })
  roles: Role[];
  @Integer({
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    example: 1,
    description: 'Moves by one with every change.',
  })
  version: number;
  @Time({ example: '2026-01-31T09:30:00.000Z' })
  createdAt: string;
  @Time({ example: '2026-01-31T09:30:00.000Z' })
  updatedAt: string;
}

export class UserPage extends PageShape {
  @ApiProperty({ type: UserView, isArray: true })
  data: UserView[];
}

/** A live user's view. */
export const userView = ({
  id,
  username,
  email,
  roles,
  version,
  createdAt,
  updatedAt,
}: User): UserView => ({
  id,
  username: username ?? '',
  email: email ?? '',
  roles,
  version,
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
});

/** The user's JSON, made once for each row that was read. */
export const userRepresentation = represent(userView);
