/** Both packages as they would be published: packed, judged, installed into an empty project, and run. */

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { builtinModules } from 'node:module';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { startGitlabSimulator } from '../../fixtures/gitlab/index.ts';
import { eventually } from '../support/deadline.ts';
import { temporaryDirectory, writePrivate } from '../support/files.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const STAND_IN = path.join(ROOT, 'fixtures/guest/stand-in/cli.ts');
const TEMPLATE = path.join(ROOT, 'fixtures/guest/templates/gitlab-shell');

/** Node 24 for npm and everything that it starts. */
const ENV = {
  ...process.env,
  PATH: `${path.dirname(process.execPath)}${path.delimiter}${process.env['PATH']}`,
  NODE_OPTIONS: '',
};

interface Packed {
  readonly name: string;
  readonly tarball: string;
  readonly files: readonly string[];
}

describe('packages', () => {
  const cleanUps: (() => unknown)[] = [];
  const packed: Packed[] = [];
  let project = '';

  before(async () => {
    const directory = await temporaryDirectory({
      after: (fn) => cleanUps.push(fn as () => unknown),
    });
    await run('npm', ['run', 'build'], ROOT);
    for (const workspace of [[], ['--workspace', 'forrest-host']]) {
      const { stdout } = await run(
        'npm',
        ['pack', '--json', '--pack-destination', directory, ...workspace],
        ROOT,
      );
      const [one] = JSON.parse(stdout.slice(stdout.search(/^\[/m))) as {
        name: string;
        filename: string;
        files: { path: string }[];
      }[];
      assert.ok(one);
      packed.push({
        name: one.name,
        tarball: path.join(directory, one.filename),
        files: one.files.map((file) => file.path),
      });
    }
    project = path.join(directory, 'project');
    await mkdir(project);
    await writeFile(path.join(project, 'package.json'), '{ "private": true, "type": "module" }\n');
    const tarballs = packed.map(({ tarball }) => tarball);
    await run(
      'npm',
      ['install', '--no-audit', '--no-fund', '--prefer-offline', ...tarballs],
      project,
    );
  });

  after(async () => {
    for (const cleanUp of cleanUps) await cleanUp();
  });

  it('hold what they need and no tests', () => {
    const filesOf = (name: string) => packed.find((one) => one.name === name)?.files ?? [];
    for (const { files } of packed) {
      const stray = files.filter((file) => /\.test\.|(^|\/)(test|testing|fixtures)\//.test(file));
      assert.deepEqual(stray, []);
      for (const license of ['LICENSE-MIT', 'LICENSE-APACHE', 'README.md']) {
        assert.ok(files.includes(license), license);
      }
    }
    for (const file of [
      'plugin.json',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/contract/index.d.ts',
    ])
      assert.ok(filesOf('forrest-gitlab').includes(file), file);
    for (const file of [
      'dist/cli.js',
      'dist/dashboard/assets/dashboard.js',
      'deploy/forrest-host.service',
    ])
      assert.ok(filesOf('forrest-host').includes(file), file);
  });

  it('depend on what they import, and import what they depend on', async () => {
    for (const { name } of packed) {
      const installed = path.join(project, 'node_modules', name);
      const manifest = JSON.parse(await readFile(path.join(installed, 'package.json'), 'utf8')) as {
        dependencies: Record<string, string>;
      };
      const imported = await importsOf(path.join(installed, 'dist'));
      imported.delete(name);
      assert.deepEqual(
        [...imported].toSorted(),
        Object.keys(manifest.dependencies).toSorted(),
        name,
      );
    }
  });

  it('are clean to publint and to "are the types wrong"', async () => {
    for (const { tarball } of packed) {
      await run('npx', ['publint', 'run', tarball, '--strict'], ROOT);
      await run('npx', ['attw', tarball, '--profile', 'esm-only', '--no-emoji'], ROOT);
    }
  });

  it('type-check for who writes a host or a provider', async () => {
    await writeFile(
      path.join(project, 'host.ts'),
      `import { createPlugin, type GitlabConfig } from 'forrest-gitlab';
import type { ProviderPlugin } from 'forrest-gitlab/contract';
import { startHost } from 'forrest-host';
export const plugin: ProviderPlugin<GitlabConfig> = createPlugin();
export const start = () => startHost({ configFile: 'config.yaml' });
`,
    );
    const tsc = path.join(ROOT, 'node_modules/.bin/tsc');
    const types = path.join(ROOT, 'node_modules/@types');
    await run(
      tsc,
      [
        ...['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--target', 'es2025'],
        ...['--types', 'node', '--typeRoots', types, '--ignoreConfig', 'host.ts'],
      ],
      project,
    );
  });

  it('run a job, installed', async (t) => {
    const gitlab = await startGitlabSimulator();
    t.after(() => gitlab.close());
    gitlab.createProject({ path: 'lab/demo', files: { 'README.md': 'demo\n' } });
    await writePrivate(path.join(project, 'build.token'), `${gitlab.createRunner().token}\n`);
    const config = {
      host: {
        base_dir: 'base',
        ram: '2G',
        driver: 'process',
        guest_api: 'off',
        dashboard: { listen: '127.0.0.1:0' },
      },
      plugins: ['forrest-gitlab'],
      machines: {
        small: {
          setup_template: {
            path: TEMPLATE,
            parameters: { GITLAB_RUNNER: `${process.execPath} ${STAND_IN}`, BOOT_GATE: '' },
          },
          cpus: 1,
          ram: '1G',
          disk: '1G',
        },
      },
      gitlab: {
        url: gitlab.url,
        listen: '127.0.0.1:0',
        runners: [{ name: 'build', token_file: 'build.token', machine: 'small' }],
      },
    };
    await writePrivate(path.join(project, 'config.yaml'), JSON.stringify(config));
    const command = path.join(project, 'node_modules/.bin/forrest-host');
    const on = ['--config', 'config.yaml'];
    const checked = await run(command, ['check', ...on], project);
    assert.match(checked.stdout, /jobs can run/);
    const { stdout: schema } = await run(command, ['schema'], project);
    assert.ok('gitlab' in (JSON.parse(schema) as { properties: object }).properties);

    const host = spawn(command, ['run', ...on], { cwd: project, env: ENV, stdio: 'pipe' });
    let said = '';
    host.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    host.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const exited = new Promise<number | null>((resolve) => host.once('exit', resolve));
    t.after(async () => {
      host.kill('SIGKILL');
      await exited;
    });
    await eventually(`the host to be ready: ${said}`, () => said.includes('ready'), 60_000);
    const job = gitlab.queueJob({ project: 'lab/demo', name: 'smoke', script: ['echo smoke'] });
    await eventually('the job to succeed', () => job.status === 'success', 60_000);
    const { stdout: status } = await run(command, ['status', ...on], project);
    assert.match(status, /^memory: /m);
    host.kill('SIGTERM');
    assert.equal(await exited, 0, said);
  });
});

async function run(
  file: string,
  args: readonly string[],
  cwd: string,
): Promise<{ stdout: string; stderr: string }> {
  try {
    return await promisify(execFile)(file, [...args], {
      cwd,
      env: ENV,
      timeout: 240_000,
      maxBuffer: 64 * 1024 * 1024,
    });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new Error(`${file} ${args.join(' ')} failed:\n${stdout}${stderr}`, { cause: error });
  }
}

/** The packages that compiled files import. */
async function importsOf(directory: string): Promise<Set<string>> {
  const found = new Set<string>();
  for (const entry of await readdir(directory, { recursive: true })) {
    if (!entry.endsWith('.js') || entry.includes('assets')) continue;
    const text = await readFile(path.join(directory, entry), 'utf8');
    const imports =
      /^(?:import|export)\b(?:[^'";=()]*\bfrom)?\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm;
    for (const [, still, later] of text.matchAll(imports)) {
      const from = still ?? later ?? '';
      if (from.startsWith('.') || from.startsWith('node:') || builtinModules.includes(from))
        continue;
      const parts = from.split('/');
      found.add(from.startsWith('@') ? parts.slice(0, 2).join('/') : (parts[0] ?? ''));
    }
  }
  return found;
}
