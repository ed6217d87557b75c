/** The requests and responses of the routes of accounts and sessions. */
import { applyDecorators } from '@nestjs/common';
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { Email, Id, Text, Time } from '../platform/http/validation/fields.js';
import { Username } from '../users/users.dto.js';
import type { Session } from './sessions/session.entity.js';

const EXAMPLE_PASSWORD = 'a lighthouse keeper counts waves';

/** 15 to 128 code points, counted in NFC. password-rules.ts checks how common the password is. */
const NewPassword = (example = EXAMPLE_PASSWORD): PropertyDecorator =>
  applyDecorators(
    Text({
      min: 15,
      max: 128,
      format: 'password',
      example,
      description:
        'Any Unicode text. Common passwords and those made of the username or email address are ' +
        'rejected.',
    }),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? value.normalize('NFC') : value,
    ),
  );

/** An existing password. It has no rules, because it is only compared. */
const ExistingPassword = (): PropertyDecorator =>
  Text({ min: 1, max: 1024, format: 'password', example: EXAMPLE_PASSWORD });

export class RegisterUser {
  @Username({ example: 'ada' })
  username: string;

  @Email({ example: 'ada@example.com', description: 'Unique, compared without case.' })
  email: string;

  @NewPassword()
  password: string;
}

export class ChangePassword {
  @ExistingPassword()
  currentPassword: string;

  @NewPassword('the tide takes back its seven stones')
  newPassword: string;
}

export class LogIn {
  @Text({ min: 1, max: 254, example: 'ada', description: 'The username or the email address.' })
  username: string;

  @ExistingPassword()
  password: string;
}

@ApiSchema({ name: 'Session' })
export class SessionView {
  @Id({ example: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a' })
  id: string;

  @Id({ example: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6b' })
  userId: string;

  @Time({ example: '2026-01-31T09:30:00.000Z' })
  createdAt: string;

  @Time({ example: '2026-01-31T09:31:00.000Z', description: 'The last use, up to a minute late.' })
  lastSeenAt: string;

  @Time({
    example: '2026-02-01T09:30:00.000Z',
    description: 'The session ends at this time at the latest.',
  })
  expiresAt: string;

  @Time({
    example: '2026-01-31T10:31:00.000Z',
    description: 'The session ends at this time unless it is used before.',
  })
  idleExpiresAt: string;

  @ApiProperty({ type: String, nullable: true, example: 'curl/8.0' })
  userAgent: string | null;

  @ApiProperty({ type: String, nullable: true, example: '192.0.2.1' })
  ip: string | null;

  @ApiProperty({
    type: Boolean,
    example: true,
    description: 'Whether this is the session of the request.',
  })
  current: boolean;
}

@ApiSchema({ name: 'NewSession' })
export class NewSessionView extends SessionView {
  @ApiProperty({
    type: String,
    description: 'Shown only in this response. Send it as `Authorization: Bearer <token>`.',
    example: 'hf_3q2-7wAAbCdEfGhIjKlMnOpQrStUvWxYz01234567895L4e_g',
  })
  token: string;
}

export class SessionList {
  @ApiProperty({ type: SessionView, isArray: true })
  data: SessionView[];

  @ApiProperty({
    type: 'null',
    description: 'Always null: the list has one page.',
    example: null,
  })
  next: string | null;
}

/**
 * @param idleSeconds time without a use after which a session ends
 * @param currentId id of the session of the request
 */
export function sessionView(session: Session, idleSeconds: number, currentId: string): SessionView {
  const { id, userId, createdAt, lastSeenAt, expiresAt, userAgent, ip } = session;
  const idleEndMs = Math.min(lastSeenAt.getTime() + idleSeconds * 1000, expiresAt.getTime());
  return {
    id,
    userId,
    createdAt: createdAt.toISOString(),
    lastSeenAt: lastSeenAt.toISOString(),
    expiresAt: expiresAt.toISOString(),
    idleExpiresAt: new Date(idleEndMs).toISOString(),
    userAgent,
    ip,
    current: id === currentId,
  };
}
