/** The requests and responses of the users' routes. */
import { applyDecorators } from '@nestjs/common';
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { type Role, ROLES } from '../platform/access/actor.js';
import { Email, Id, Integer, SomeOf, Text, Time } from '../platform/http/validation/fields.js';
import { PageQuery, PageShape } from '../platform/http/pagination.js';
import { represent } from '../platform/http/conditional/representation.js';
import type { User } from './user.entity.js';

/**
 * Lowercases `A` to `Z` only. Unicode's lowercasing would turn the Kelvin sign into a `k`, and a
 * username may not contain that sign.
 */
export const lowercaseAscii = (text: string): string =>
  text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

/** A username: upper case becomes lower case, so that names differ in more than case. */
export const Username = (
  options: { optional?: boolean; example?: string; description?: string } = {},
): PropertyDecorator =>
  applyDecorators(
    Text({
      min: 3,
      max: 32,
      pattern: /^[A-Za-z0-9_.-]*$/,
      form: 'made of a-z, 0-9, "_", "." and "-"',
      description:
        'Unique. Upper case is converted to lower case. Names such as `admin` are reserved.',
      ...options,
    }),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? lowercaseAscii(value) : value,
    ),
  );

export class ChangeUser {
  @Username({ optional: true, example: 'ada.lovelace' })
  username?: string;

  @Email({
    optional: true,
    example: 'ada@example.org',
    description: 'Unique, compared without case.',
  })
  email?: string;
}

export class ChangeRoles {
  @SomeOf(ROLES, {
    name: 'Role',
    example: ['user', 'support'],
    description: 'Replaces all roles of the user.',
  })
  roles: Role[];
}

export class ListUsersQuery extends PageQuery {
  @Username({ optional: true, description: 'Only the user with this username.' })
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

  @SomeOf(ROLES, { name: 'Role', example: ['user'] })
  roles: Role[];

  @Integer({
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    example: 1,
    description: 'Increases by one with every change.',
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

/** The response for a user who is not deleted. */
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

/** The same as JSON, serialised once for each row that was read. */
export const userRepresentation = represent(userView);
