// Requests to the farm that this page came from. The session's cookie says who asks.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, body) {
  const answer = await fetch(path, {
    method,
    credentials: "same-origin",
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.status === 204) return null;
  let value = null;
  try {
    value = await answer.json();
  } catch { /* an answer that is no JSON has no sentence */ }
  if (!answer.ok) throw new Refusal(answer.status, value?.error ?? `the farm answered ${answer.status}`);
  return value;
}

export const get = (path) => request("GET", path);
export const post = (path, body = {}) => request("POST", path, body);
export const remove = (path) => request("DELETE", path);

export const phonePath = (id) => `/api/v1/devices/${encodeURIComponent(id)}`;
export const jobPath = (id) => `/api/v1/jobs/${encodeURIComponent(id)}`;
